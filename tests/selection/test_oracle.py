"""Held-out reconstruction errors, against the same by transformers and by calibration's own figures."""

import pytest
import torch
from models_for_tests import Workspace, make_tokens

from altq.calibration.bank import read_entry
from altq.calibration.states import States
from altq.calibration.unit import Problem, Unit
from altq.experiment.kinds import HALVES
from altq.experiment.setting import Setting
from altq.models.skeleton import Skeleton
from altq.models.sublayer import Sublayer
from altq.selection.oracle import reconstruction_errors

SETTING = Setting.parse("W4A4K4V4")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace("llama_gqa", tmp_path_factory.mktemp("reconstruction"))


def test_without_quantizers_nothing_is_lost(workspace):
    setting = Setting.parse("W16A16K16V16")
    bank = workspace.bank(setting, "rotation")
    errors = reconstruction_errors(
        workspace.model, make_tokens(seed=5), banks={"rotation": bank}, setting=setting, loss="relative"
    )
    assert all(0 <= of_kind["rotation"] < 1e-4 for of_kind in errors)


def test_on_the_calibration_tokens_it_is_the_calibrations_own_error(workspace):
    banks = {kind: workspace.bank(SETTING, kind) for kind in ("affine", "identity")}
    errors = reconstruction_errors(workspace.model, workspace.tokens, banks=banks, setting=SETTING, loss=workspace.loss)
    skeleton, states = Skeleton(workspace.model), States(workspace.states)
    arguments = skeleton.block_arguments(states.length)
    for s, of_kind in enumerate(errors):
        assert list(of_kind) == ["affine", "identity"]
        for kind, error in of_kind.items():
            sublayer = Sublayer(skeleton.block(s // 2), skeleton.family, HALVES[s % 2])
            unit = Unit([read_entry(banks[kind], s).restore(sublayer, SETTING)], arguments[s // 2])
            problem = Problem(states.state(s), states.state(s + 1), workspace.loss)
            assert error == pytest.approx(problem.settled(unit, torch.arange(len(workspace.tokens))), rel=1e-4)
        assert of_kind["affine"] != of_kind["identity"]


def test_other_tokens_give_other_errors_and_the_same_tokens_the_same(workspace):
    banks = {"affine": workspace.bank(SETTING, "affine")}
    first, again, other = (
        reconstruction_errors(workspace.model, make_tokens(seed=seed), banks=banks, setting=SETTING, loss="mse")
        for seed in (5, 5, 6)
    )
    assert first == again != other


def test_a_bank_of_another_kind_or_setting_is_refused(workspace):
    bank = workspace.bank(SETTING, "affine")
    with pytest.raises(
        ValueError, match="affine do not go together: the kind of the first is rotation, of the second affine"
    ):
        reconstruction_errors(workspace.model, workspace.tokens, banks={"rotation": bank}, setting=SETTING, loss="mse")
    with pytest.raises(
        ValueError, match="affine do not go together: the setting of the first is W3A3K3V3, of the second W4A4K4V4"
    ):
        reconstruction_errors(
            workspace.model, workspace.tokens, banks={"affine": bank}, setting=Setting.parse("W3A3K3V3"), loss="mse"
        )
