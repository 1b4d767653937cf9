"""Stages that stream a model let go of a block before they read the next, whenever the garbage collector may come."""

import gc
import weakref

import pytest
from models_for_tests import Workspace, perplexity_losses, recipe

from altq.calibration import by_unit
from altq.calibration.fit import Fit
from altq.calibration.recording import record_states
from altq.calibration.states import States
from altq.checkpoint.quantized_model import QuantizedSkeleton
from altq.experiment.policies import SearchOptions
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.models.skeleton import Skeleton
from altq.selection.candidates import Candidates
from altq.selection.learned import search_model
from altq.selection.oracle import reconstruction_errors

SETTING = Setting.parse("W4A4K4V4")
FIT = Fit(1.0, 1.0, 0, False)
STEPS = {"steps": 2, "clip_search": True}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace("llama_gqa", tmp_path_factory.mktemp("streaming"))


@pytest.fixture
def others(monkeypatch):
    """How many blocks were in memory each time that one was read, but for it."""
    read, counts = [], []

    def counted(original):
        def block(self, index):
            counts.append(sum(module() is not None for module in read))
            read.append(weakref.ref(module := original(self, index)))
            return module

        return block

    for skeleton in (Skeleton, QuantizedSkeleton):
        monkeypatch.setattr(skeleton, "block", counted(skeleton.block))
    gc.disable()
    yield counts
    gc.enable()


def test_states(workspace, others, tmp_path):
    record_states(workspace.model, workspace.tokens, loss="relative", folder=tmp_path, fingerprint="test")
    assert others == [0, 0]


@pytest.mark.parametrize(("unit", "expected"), [("sublayer", [0, 0, 0, 0]), ("block", [0, 0])])
def test_calibration(workspace, others, unit, expected):
    workspace.bank(SETTING, "affine", folder=unit, unit=unit, **STEPS)
    assert others == expected


def test_calibration_takes_no_step_with_what_was_observed_in_memory(workspace, monkeypatch):
    read, alive, original = [], [], States.observed

    def observed(*arguments):
        tensors = original(*arguments)
        read.extend(map(weakref.ref, tensors.values()))
        return tensors

    monkeypatch.setattr(States, "observed", observed)
    monkeypatch.setattr(by_unit, "fit_unit", lambda *_, **__: alive.append(sum(t() is not None for t in read)) or FIT)
    gc.disable()
    workspace.bank(SETTING, "rotation", folder="observed", **STEPS)
    gc.enable()
    assert len(read) > 4 and alive == [0] * 4


def test_search_holds_one_for_each_candidate(workspace, others, tmp_path):
    kinds, options = ("affine", "rotation", "identity"), SearchOptions(steps=2)
    candidates = Candidates(kinds, setting=SETTING, seed=0, recipe=recipe(**STEPS))
    search_model(workspace.subject(), candidates, options=options, folder=tmp_path, fingerprint="code")
    assert others == [0, 1, 2] * 4


def test_reconstruction(workspace, others):
    banks = {kind: workspace.bank(SETTING, kind) for kind in ("affine", "rotation")}
    others.clear()
    reconstruction_errors(workspace.model, workspace.tokens, banks=banks, setting=SETTING, loss="relative")
    assert others == [0] * 3 * 4


@pytest.mark.parametrize("weights", ["gptq", "rtn"])
def test_assembly_and_perplexity(workspace, others, weights):
    workspace.bank(SETTING, "affine")
    others.clear()
    folder = workspace.checkpoint(SETTING, ["affine"] * 4, RoundingOptions(weights=weights, windows=4), folder=weights)
    perplexity_losses(QuantizedSkeleton(folder), workspace.tokens)
    perplexity_losses(Skeleton(workspace.model), workspace.tokens)
    assert others == [0] * 6
