"""A refined checkpoint: nearer to the full-precision model, with the codes of the one that it was made from."""

import json
import logging

import numpy as np
import pytest
import torch
from models_for_tests import Workspace, make_tokens, perplexity_losses, read_checkpoint
from stopped_for_tests import Stopped, stop_after

from altq.checkpoint.packed_model import open_packed_model
from altq.checkpoint.quantized_model import open_model
from altq.experiment.refinement import RefinementRecipe
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.models.residual_stream import ResidualStream
from altq.refinement.refine import refine
from altq.refinement.training import Training

RTN = RoundingOptions(weights="rtn", windows=4)
RECIPE = RefinementRecipe(steps=12, windows_per_step=8, rate=1e-2, judged_every=4)
LENGTH = 20
TOKENS, HELD_OUT = (make_tokens(windows=n, length=LENGTH, seed=seed) for n, seed in ((16, 1), (6, 2)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace and the folder of a checkpoint."""
    workspace = Workspace("llama_gqa", tmp_path_factory.mktemp("refined"))
    return workspace, workspace.checkpoint(Setting(3, 3, 3, 3), ["affine", "rotation", "rotation", "affine"], RTN)


def refined(made, folder, *, recipe=RECIPE, tokens=TOKENS, held_out=HELD_OUT, **changed):
    workspace, checkpoint = made
    options = {"method": "mine_refined", "fingerprint": "test"} | changed
    return refine(
        workspace.model, checkpoint, tokens=tokens, held_out=held_out, recipe=recipe, folder=folder, **options
    )


@torch.no_grad()
def divergence(workspace, folder, tokens):
    """The mean KL divergence a token from the full-precision model, in float64."""
    logs = [
        model.fill()(torch.from_numpy(tokens).long(), use_cache=False).logits.double().log_softmax(-1)
        for model in (open_model(workspace.model), open_model(folder))
    ]
    return (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean().item()


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_held_out_divergence_falls_and_is_what_was_said(made, tmp_path):
    workspace, checkpoint = made
    outcome = refined(made, tmp_path)
    before, after = (divergence(workspace, folder, HELD_OUT) for folder in (checkpoint, tmp_path))
    assert after < 0.9 * before
    assert outcome["held_out"][0] == {"steps": 0, "loss": pytest.approx(before, rel=1e-3)}
    best = min(outcome["held_out"], key=lambda judgement: judgement["loss"])
    assert best == {"steps": outcome["kept_steps"], "loss": pytest.approx(after, rel=1e-3)}
    assert [judgement["steps"] for judgement in outcome["held_out"]] == [0, 4, 8, 12]
    assert len(outcome["losses"]) == 12 and not outcome["diverged"]
    unseen = make_tokens(windows=6, length=LENGTH, seed=9)
    assert divergence(workspace, tmp_path, unseen) < divergence(workspace, checkpoint, unseen)


def test_codes_transforms_and_embedding_are_unchanged_to_the_bit(made, tmp_path):
    _, checkpoint = made
    refined(made, tmp_path)
    before, after = read_checkpoint(checkpoint), read_checkpoint(tmp_path)
    assert list(before) == list(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.endswith((".scale", ".clip", "norm.weight")) for name in changed)
    assert not any(".transform." in name for name in changed)
    assert all(before[name].dtype == after[name].dtype for name in before)
    assert sum(after[name].numel() for name in before if name.endswith("_proj.scale")) == sum(
        len(before[name]) for name in before if name.endswith(".codes")
    )
    names = {path.name for path in checkpoint.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == names
    configs = [json.loads((folder / "config.json").read_text()) for folder in (checkpoint, tmp_path)]
    assert configs[0] == configs[1]
    labels = [json.loads((folder / "quantization.json").read_text()) for folder in (checkpoint, tmp_path)]
    assert labels[1] == labels[0] | {"method": "mine_refined"}


def test_scales_of_groups_stay_numbers_of_bfloat16(tmp_path):
    workspace = Workspace("llama_gqa", tmp_path)
    checkpoint = workspace.checkpoint(Setting.parse("W2A4K4V4g16"), ["affine"] * 4, RTN, zero_point=True)
    outcome = refined((workspace, checkpoint), tmp_path / "refined")
    before, after = read_checkpoint(checkpoint), read_checkpoint(tmp_path / "refined")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.endswith("q_proj.scale") and before[name].dtype == torch.bfloat16 for name in changed)
    assert all(before[name].dtype == after[name].dtype for name in before)
    assert not any(name.endswith((".codes", ".zero")) for name in changed)
    found = divergence(workspace, tmp_path / "refined", HELD_OUT)
    assert found == pytest.approx(outcome["held_out"][-1]["loss"], rel=1e-3)
    assert found < 0.9 * divergence(workspace, checkpoint, HELD_OUT)


def test_packed_kernels_give_its_perplexity(made, tmp_path):
    refined(made, tmp_path)
    tokens = make_tokens(windows=6, length=LENGTH, seed=3)
    found, expected = (
        np.exp(np.sum(perplexity_losses(load(tmp_path), tokens)) / (len(tokens) * (LENGTH - 1)))
        for load in (open_packed_model, open_model)
    )
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("owner", "name", "stopped_at"),
    [
        *((Training, "_step", step) for step in (0, 1, 7)),
        (ResidualStream, "advance", 0),
        (ResidualStream, "advance", 1),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_bytes(made, tmp_path, monkeypatch, owner, name, stopped_at):
    expected = refined(made, tmp_path / "whole")
    calls = stop_after(monkeypatch, owner, name, stopped_at)
    with pytest.raises(Stopped):
        refined(made, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "quantization.json").exists()
    assert refined(made, tmp_path / "stopped") == expected
    assert len(calls) == (12 if owner is Training else 2)  # none twice
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


@pytest.mark.parametrize("lost", ["training_*.pt", "last_states.npy"])
def test_what_a_stopped_run_left_and_cannot_be_read_is_made_anew(made, tmp_path, monkeypatch, caplog, lost):
    expected = refined(made, tmp_path / "whole")
    stop_after(monkeypatch, Training, "_step", 5)
    with pytest.raises(Stopped):
        refined(made, tmp_path / "stopped")
    (path,) = (tmp_path / "stopped").glob(f"*.scratch/{lost}")
    path.write_bytes(path.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        assert refined(made, tmp_path / "stopped") == expected
    assert "anew" in caplog.text
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


def test_other_inputs_begin_anew(made, tmp_path, monkeypatch):
    calls = stop_after(monkeypatch, Training, "_step", 5)
    with pytest.raises(Stopped):
        refined(made, tmp_path)
    refined(made, tmp_path, fingerprint="other")
    assert len(calls) == 5 + 12


@pytest.mark.parametrize(("rate", "diverges"), [(90.0, True), (3.0, False)])
def test_a_rate_that_is_too_high_is_taken_back_and_said(made, tmp_path, caplog, rate, diverges):
    _, checkpoint = made
    recipe = RECIPE.model_copy(update={"rate": rate})
    with caplog.at_level(logging.WARNING):
        outcome = refined(made, tmp_path, recipe=recipe, method="test")
    assert outcome["kept_steps"] == 0 and outcome["diverged"] is diverges
    assert "lower the rate" in caplog.text
    json.dumps(outcome, allow_nan=False)
    before, after = content(checkpoint), content(tmp_path)
    assert {name for name in before if before[name] != after[name]} <= {"quantization.json"}


def test_a_later_step_that_is_worse_is_not_kept(made, tmp_path, monkeypatch):
    workspace, _ = made
    original = Training.loss

    def worse(self, windows, *, with_gradients):
        loss = original(self, windows, with_gradients=with_gradients)
        return loss if with_gradients or len(self.losses) <= 4 else loss + 1

    monkeypatch.setattr(Training, "loss", worse)
    outcome = refined(made, tmp_path / "kept")
    assert outcome["kept_steps"] == 4
    expected = pytest.approx(outcome["held_out"][1]["loss"], rel=1e-3)
    assert divergence(workspace, tmp_path / "kept", HELD_OUT) == expected


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokens": TOKENS[:0]}, "no windows to train on"),
        ({"held_out": HELD_OUT[:0]}, "no windows to judge by"),
        ({"held_out": HELD_OUT[:, :10]}, "20 tokens, held-out ones 10"),
        ({"tokens": TOKENS[:7]}, "windows_per_step is 8, but there are 7"),
        ({"held_out": TOKENS[3:5]}, "held-out windows are among those to train on"),
    ],
)
def test_windows_that_cannot_be_used_are_refused(made, tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        refined(made, tmp_path / "refined", **changed)
    assert not (tmp_path / "refined").exists()


def test_a_model_is_no_checkpoint(made, tmp_path):
    workspace, _ = made
    with pytest.raises(ValueError, match="is no checkpoint"):
        refined((workspace, workspace.model), tmp_path)


def test_a_checkpoint_that_overflows_is_refused_before_any_step(made, tmp_path, monkeypatch):
    monkeypatch.setattr(Training, "loss", lambda *_, **__: float("nan"))
    with pytest.raises(ValueError, match="the loss is nan before any step"):
        refined(made, tmp_path)
    assert not list(tmp_path.glob("*.scratch"))
