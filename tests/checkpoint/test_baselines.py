"""Every method of the tables, calibrated by its own recipe: at 16 bits its checkpoint is transformers' model."""

import json

import geoopt
import pytest
import torch
from models_for_tests import (
    MODELS,
    ROTATABLE,
    logits,
    read_checkpoint,
    relative_error,
    transformers_model,
    write_selection,
)

from altq.calibration import end_to_end
from altq.calibration.bank import RESIDUAL_FILE, read_entry, read_index, read_residual
from altq.calibration.by_unit import calibrate_bank
from altq.calibration.end_to_end import calibrate_end_to_end
from altq.calibration.fitting import Fitting
from altq.checkpoint.assembly import assemble
from altq.checkpoint.quantized_model import load_model
from altq.checkpoint.scheme import Scheme
from altq.experiment.baselines import BASELINES, END_TO_END
from altq.experiment.methods import BANKS, METHODS
from altq.experiment.recipe import Recipe
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import FULL_PRECISION, Setting
from altq.models.weights import ModelWeights
from altq.selection.selection import Selection
from altq.transforms.hadamard import Hadamard
from altq.transforms.rotation import random_orthogonal

W4A4K4V4 = Setting(4, 4, 4, 4)
WITH_BANKS = [name for name, method in METHODS.items() if method.banks]
STEPS = {"steps": 2, "windows_per_step": 2}
FAST = {"flatquant": {"learning_rate": 1e-2}, "ostquant": {"rotation_rate": 0.1, "scaling_rate": 0.05}}
"""Where two steps with the recipe's own rate would hardly be seen."""


def recipe_of(bank):
    """The baseline's recipe, or our own, with a budget for tests."""
    recipe = BASELINES.get(bank, Recipe())
    return recipe.model_copy(update=STEPS | FAST.get(bank, {})) if recipe.steps else recipe


def calibrated(workspace, bank, setting=W4A4K4V4):
    """The bank, calibrated as the workflow does; made once."""
    folder = workspace.folder / "banks" / str(setting) / bank
    if not (folder / "index.json").exists():
        calibrate(workspace, bank, setting, recipe=recipe_of(bank), folder=folder)
    return folder


def calibrate(workspace, bank, setting, *, recipe, folder):
    if bank in END_TO_END:
        fitting = Fitting.end_to_end(setting=setting, seed=0, recipe=recipe)
        calibrate_end_to_end(workspace.model, workspace.states, fitting, folder, fingerprint="code")
    else:
        fitting = Fitting(setting, kind=BANKS[bank], seed=0, recipe=recipe)
        calibrate_bank(workspace.subject(), fitting, folder, fingerprint="code")


def selection_of(method, path):
    mixture = ["affine", "rotation", "rotation", "affine"]
    return write_selection(mixture if method.policy == "heuristic" else 4 * [method.policy], path)


def checkpoint(workspace, name, setting, weights="rtn"):
    """The checkpoint of a method; at 16 bits that of what was trained at W4A4K4V4."""
    method, folder = METHODS[name], workspace.folder / "checkpoints" / str(setting) / name
    banks = {kind: calibrated(workspace, bank) for kind, bank in method.banks.items()}
    for bank in banks.values():  # trained at 4 bits, and told to be of the setting
        (bank / "index.json").write_text(json.dumps(read_index(bank) | {"setting": str(setting)}))
    selection = selection_of(method, workspace.folder / "selection.json")
    rounding = RoundingOptions(weights=weights, windows=4)
    scheme = Scheme(Selection.read(selection), setting=setting, rounding=rounding, banks=banks)
    assemble(workspace.model, workspace.states, scheme, folder, fingerprint="test")
    return folder


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", WITH_BANKS)
def test_at_16_bits_every_method_is_the_model(workspaces, model, name):
    workspace = workspaces(model)
    if model not in ROTATABLE and name in END_TO_END:
        with pytest.raises(ValueError, match="cannot fold: post_attention_layernorm"):
            checkpoint(workspace, name, FULL_PRECISION)
        return
    folder = checkpoint(workspace, name, FULL_PRECISION)
    expected = logits(transformers_model(workspace.model), workspace.tokens)
    assert relative_error(logits(load_model(folder), workspace.tokens), expected) < 1e-4
    # What is equal is the function, not the weights.
    found, original = read_checkpoint(folder), ModelWeights(workspace.model)
    for name in (original.family.attention.readers[2], *original.family.ffn.writers):
        name = f"model.layers.0.{name}.weight"
        assert relative_error(found[name], original.tensor(name)) > 1e-3


@pytest.mark.parametrize("name", WITH_BANKS)
def test_at_4_bits_every_method_is_near_the_model_and_not_the_model(workspaces, name):
    workspace = workspaces("llama_gqa")
    expected = logits(transformers_model(workspace.model), workspace.tokens)
    found = logits(load_model(checkpoint(workspace, name, W4A4K4V4, weights="gptq")), workspace.tokens)
    assert 0.01 < relative_error(found, expected) < 0.5


@pytest.mark.parametrize("bank", ["spinquant", "ostquant", "flatquant"])
def test_banks_that_take_steps_were_moved_by_them(workspaces, bank, tmp_path):
    # The invariance above is that of trained transforms.
    workspace = workspaces("llama_gqa")
    trained = calibrated(workspace, bank)
    without = recipe_of(bank).model_copy(update={"steps": 0})
    calibrate(workspace, bank, W4A4K4V4, recipe=without, folder=tmp_path)
    if bank in END_TO_END:
        assert (read_residual(trained) - read_residual(tmp_path)).abs().max() > 1e-3
    else:
        assert any(entry["steps_kept"] for entry in read_index(trained)["entries"])
        assert not (trained / RESIDUAL_FILE).exists()
    moved = []
    for s in range(4):
        before, after = (read_entry(folder, s).transforms for folder in (tmp_path, trained))
        for site in before:
            pairs = zip(before[site].state_dict().values(), after[site].state_dict().values(), strict=True)
            moved.append(max([relative_error(b, a) for a, b in pairs], default=0.0))
    assert max(moved) > 1e-3


def turn_at_each_step(monkeypatch):
    """Let each step end with rotations and scalings elsewhere: at 16 bits no loss has a gradient that moves them."""
    original, generator = end_to_end._Training._step, torch.Generator().manual_seed(0)

    def turning(training, *arguments):
        loss = original(training, *arguments)
        for parameter in training.whole.parameters():
            if isinstance(parameter, geoopt.ManifoldParameter) and parameter.requires_grad:
                size = parameter.shape[-1]
                turned = [random_orthogonal(size, generator) for _ in range(parameter.numel() // size**2)]
                parameter.data.copy_(torch.stack(turned).view(parameter.shape))
            elif parameter.requires_grad:
                parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        return loss

    monkeypatch.setattr(end_to_end._Training, "_step", turning)


@pytest.mark.parametrize("name", ["quarot", "spinquant", "ostquant"])
def test_calibrated_at_16_bits_it_is_the_model_too(workspaces, monkeypatch, name):
    workspace, method = workspaces("qwen2"), METHODS[name]
    folder, recipe = workspace.folder / f"at-16-{name}", recipe_of(name)
    with monkeypatch.context() as patch:
        turn_at_each_step(patch)
        calibrate(workspace, name, FULL_PRECISION, recipe=recipe, folder=folder / "bank")
    selection = selection_of(method, workspace.folder / "selection.json")
    banks = dict.fromkeys(method.banks, folder / "bank")
    rounding = RoundingOptions(weights="gptq", windows=4)
    scheme = Scheme(Selection.read(selection), setting=FULL_PRECISION, rounding=rounding, banks=banks)
    assemble(workspace.model, workspace.states, scheme, folder / "checkpoint", fingerprint="test")
    expected = logits(transformers_model(workspace.model), workspace.tokens)
    assert relative_error(logits(load_model(folder / "checkpoint"), workspace.tokens), expected) < 1e-4
    if recipe.steps:
        moved = read_residual(folder / "bank") - read_residual(calibrated(workspace, "quarot"))
        assert moved.abs().max() > 0.1


@pytest.mark.parametrize("bank", BASELINES)
def test_a_baseline_s_activations_are_as_its_recipe_says(workspaces, bank):
    entry, recipe = read_entry(calibrated(workspaces("llama_gqa"), bank), 0), BASELINES[bank]
    if bank in END_TO_END:
        assert entry.asymmetric == recipe.asymmetric == (bank != "quarot") and not entry.signed
        clips = {"activation": recipe.activation_clip, "cache": recipe.cache_clip}
    else:
        assert not entry.asymmetric and not entry.signed and not recipe.signed_scale
        clips = {"activation": recipe.initial_clip, "cache": recipe.initial_clip} if not recipe.steps else {}
    for name, clip in entry.clips.items():
        if name.partition(".")[0] in clips:
            given = torch.full_like(clip, clips[name.partition(".")[0]])
            torch.testing.assert_close(clip, given, rtol=2e-4, atol=0, msg=name)


# LLaMA-2 7B's 11008 = 64 x 172: nearer to the square root is 86 x 128, but there is no matrix of order 86.
@pytest.mark.parametrize("size", [11008, 13824, 14336, 28672, 1536, 36])
def test_where_down_has_a_hadamard_matrix_it_gets_one(size):
    transform = Hadamard.of_size(size, torch.Generator().manual_seed(0))
    for factor in (transform.left, transform.right):
        torch.testing.assert_close(factor.abs(), torch.full_like(factor, len(factor) ** -0.5))
