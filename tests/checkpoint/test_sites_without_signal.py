"""Projections that are zero, as grown models have them: every kind and every method calibrates and assembles."""

import logging

import pytest
import torch
from models_for_tests import (
    KINDS,
    Workspace,
    logits,
    make_tokens,
    recipe,
    relative_error,
    save_tiny_model,
    transformers_model,
    write_selection,
)
from safetensors.torch import load_file, save_file

from altq.calibration.bank import read_entry
from altq.calibration.by_unit import calibrate_bank
from altq.calibration.end_to_end import calibrate_end_to_end
from altq.calibration.fitting import Fitting
from altq.calibration.recording import record_states
from altq.calibration.states import States
from altq.checkpoint.assembly import assemble
from altq.checkpoint.quantized_model import load_model
from altq.checkpoint.scheme import Scheme
from altq.experiment.baselines import BASELINES, END_TO_END
from altq.experiment.methods import BANKS
from altq.experiment.policies import HeuristicOptions
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import FULL_PRECISION, Setting
from altq.selection.candidates import Candidates
from altq.selection.heuristic import heuristic_selection
from altq.selection.oracle import reconstruction_errors
from altq.selection.predicted import predict_model
from altq.selection.scores import Scores, best_selection
from altq.selection.selection import Selection
from altq.selection.weight_statistics import weight_statistics

SETTING = Setting(4, 4, 4, 4)
SILENT = {
    "o": (0, "self_attn.o_proj", slice(None)),
    "one head of o": (0, "self_attn.o_proj", slice(12, 24)),  # of the second of three value heads
    "v": (1, "self_attn.v_proj", slice(None)),
    "k": (1, "self_attn.k_proj", slice(None)),
    "up": (1, "mlp.up_proj", slice(None)),
    "gate": (0, "mlp.gate_proj", slice(None)),
    "down": (0, "mlp.down_proj", slice(None)),
}
"""Block, projection and columns that are zero."""


class Silenced(Workspace):
    """llama_gqa (6 heads of 6 channels that share 3 value heads) with zeros at some of SILENT."""

    def __init__(self, names, folder):
        self.folder, self.model, self.states = folder, save_tiny_model("llama_gqa", folder / "model"), folder / "states"
        path = self.model / "model.safetensors"
        tensors = load_file(path)
        for block, projection, columns in map(SILENT.get, names):
            tensors[f"model.layers.{block}.{projection}.weight"][:, columns] = 0
        save_file(tensors, path, metadata={"format": "pt"})
        self.tokens = torch.randint(0, 48, (4, 12), generator=torch.Generator().manual_seed(0)).int().numpy()
        record_states(self.model, self.tokens, loss="relative", folder=self.states, fingerprint="test")


@pytest.fixture(scope="module")
def silenced(tmp_path_factory):
    return Silenced(["o", "up"], tmp_path_factory.mktemp("silenced"))


def checkpoint(workspace, bank, kind, setting, folder):
    selection = write_selection([kind] * 4, folder / "selection.json")
    rounding = RoundingOptions(windows=4)
    scheme = Scheme(Selection.read(selection), setting=setting, rounding=rounding, banks={kind: bank})
    assemble(workspace.model, workspace.states, scheme, folder / "checkpoint", fingerprint="test")
    return folder / "checkpoint"


def assert_computes(workspace, bank, kind, setting, folder):
    """What is assembled is the model at 16 bits, and near it at 4."""
    found = logits(load_model(checkpoint(workspace, bank, kind, setting, folder)), workspace.tokens)
    expected = logits(transformers_model(workspace.model), workspace.tokens)
    assert relative_error(found, expected) < (1e-4 if setting == FULL_PRECISION else 0.6)


@pytest.mark.parametrize("setting", [SETTING, FULL_PRECISION], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scaling", ["balance", "smooth"])
def test_every_kind_goes_through(silenced, tmp_path, kind, scaling, setting):
    options = {"clip_search": True, "scaling": scaling, "steps": 2, "windows_per_step": 2}
    fitting = Fitting(setting, kind=kind, seed=0, recipe=recipe(**options))
    calibrate_bank(silenced.subject(), fitting, tmp_path / "bank", fingerprint="code")
    assert_computes(silenced, tmp_path / "bank", kind, setting, tmp_path)


@pytest.mark.parametrize("name", SILENT)
@pytest.mark.parametrize("kind", ["affine", "balance"])
def test_every_projection_may_be_zero(tmp_path, kind, name):
    workspace = Silenced([name], tmp_path)
    fitting = Fitting(SETTING, kind=kind, seed=0, recipe=recipe())
    calibrate_bank(workspace.subject(), fitting, tmp_path / "bank", fingerprint="code")
    assert_computes(workspace, tmp_path / "bank", kind, SETTING, tmp_path)


@pytest.mark.parametrize("bank", BASELINES)
def test_every_baseline_goes_through(silenced, tmp_path, bank):
    options = BASELINES[bank]
    options = options.model_copy(update={"steps": min(options.steps, 2), "windows_per_step": 2})
    if bank in END_TO_END:
        fitting = Fitting.end_to_end(setting=SETTING, seed=0, recipe=options)
        calibrate_end_to_end(silenced.model, silenced.states, fitting, tmp_path / "bank", fingerprint="code")
    else:
        fitting = Fitting(SETTING, kind=BANKS[bank], seed=0, recipe=options)
        calibrate_bank(silenced.subject(), fitting, tmp_path / "bank", fingerprint="code")
    assert_computes(silenced, tmp_path / "bank", BANKS[bank], SETTING, tmp_path)


def test_the_heuristic_selects_among_weights_of_which_some_are_zero(silenced):
    statistics = weight_statistics(silenced.model)
    assert len(heuristic_selection(statistics, HeuristicOptions()).kinds) == 4


def test_the_oracle_selects_and_what_cannot_be_predicted_is_said(silenced):
    banks = {kind: silenced.bank(SETTING, kind) for kind in ("affine", "rotation")}
    held_out = make_tokens(seed=7)
    errors = reconstruction_errors(silenced.model, held_out, banks=banks, setting=SETTING, loss="relative")
    assert errors[0] == {"affine": 0, "rotation": 0} and all(min(of_kind.values()) > 0 for of_kind in errors[1:3])
    assert best_selection("oracle", Scores("tiny", "error", True, tuple(errors))).kinds[0] == "affine"
    with pytest.raises(ValueError, match="block 0 attention: no signal at qkv"):
        candidates = Candidates(("affine", "rotation"), setting=SETTING, seed=0, recipe=recipe())
        predict_model(silenced.subject(), candidates)


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_warning_names_block_and_site(silenced, tmp_path, caplog):
    bank = silenced.bank(SETTING, "affine", folder=tmp_path / "bank")
    assert warnings_of(caplog) == [
        "block 0 attention: no signal at key, o, qkv, value; nothing is balanced there",
        "block 1 ffn: no signal at down, gate_up; nothing is balanced there",
    ]
    caplog.clear()
    checkpoint(silenced, bank, "affine", SETTING, tmp_path)
    assert warnings_of(caplog) == ["block 1 ffn: no signal at down; its weights are rounded to nearest"]


def test_one_head_is_named_and_the_others_are_balanced(tmp_path, caplog):
    workspace = Silenced(["one head of o"], tmp_path)
    observed = States(workspace.states).observed(0)
    assert [moment.abs().max() > 0 for moment in observed["value.moment"]] == [True, False, True]
    bank = workspace.bank(SETTING, "affine")
    said = "block 0 attention: no signal at key of head 1, value of head 1; nothing is balanced there"
    assert warnings_of(caplog) == [said]
    first, silent, last = read_entry(bank, 0).transforms["value"].factors.detach()
    eye = torch.eye(6)
    assert (silent @ silent.T - eye).abs().max() < 1e-5
    assert min((factor @ factor.T - eye).abs().max() for factor in (first, last)) > 0.1


@pytest.mark.parametrize("name", ["o", "up"])
def test_overflow_is_not_taken_for_a_zero_nor_a_zero_for_overflow(tmp_path, caplog, name):
    with caplog.at_level(logging.DEBUG):
        workspace = Silenced([name], tmp_path)
        checkpoint(workspace, workspace.bank(SETTING, "affine", steps=1), "affine", SETTING, tmp_path)
    assert "overflow" not in caplog.text and "no signal" in caplog.text
