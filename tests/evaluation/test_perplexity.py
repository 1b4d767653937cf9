from dataclasses import replace
from unittest.mock import call

import numpy as np
import pytest
import torch
from models_for_tests import (
    Workspace,
    logits,
    make_tokens,
    perplexity_losses,
    save_tiny_model,
    transformers_model,
)
from safetensors.torch import load_file, save_file
from stopped_for_tests import Stopped, stop_after

from altq.checkpoint.quantized_model import load_model, open_model
from altq.evaluation import perplexity as module
from altq.evaluation.perplexity import window_losses
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.runtime import device
from altq.runtime.resume import Scratch


def own_losses(folder, tokens):
    """transformers' own mean loss of each window, times the tokens that it predicts."""
    model = transformers_model(folder)
    losses = []
    for window in torch.from_numpy(tokens).long():
        with torch.no_grad():
            losses.append(model(window[None], labels=window[None]).loss.item() * (len(window) - 1))
    return losses


@pytest.mark.parametrize("name", ["llama_gqa", "qwen2", "gemma3_text", "mistral"])
def test_losses_of_a_full_precision_model_are_transformers_own(name, tmp_path):
    folder, tokens = save_tiny_model(name, tmp_path), make_tokens(windows=5, length=14)
    losses = perplexity_losses(open_model(folder), tokens)
    assert losses == pytest.approx(own_losses(folder, tokens), rel=1e-5)
    assert len(set(losses)) == 5


@pytest.mark.parametrize("pieces", [1, 3, 13, 14])
def test_losses_do_not_depend_on_how_the_work_is_cut(tmp_path, monkeypatch, pieces):
    folder, tokens = save_tiny_model("llama_gqa", tmp_path), make_tokens(windows=3, length=14)
    expected = perplexity_losses(open_model(folder), tokens)
    monkeypatch.setattr(device, "ON_CPU", replace(device.ON_CPU, tokens_of_logits=pieces))
    monkeypatch.setattr(module, "WINDOWS_IN_MEMORY", 1 + pieces % 3)
    assert perplexity_losses(open_model(folder), tokens) == pytest.approx(expected, rel=1e-6)


def test_windows_are_independent(tmp_path):
    folder, tokens = save_tiny_model("llama_gqa", tmp_path), make_tokens(windows=3)
    expected = perplexity_losses(open_model(folder), tokens)
    changed = tokens.copy()
    changed[1] = 7
    losses = perplexity_losses(open_model(folder), changed)
    assert losses[0] == pytest.approx(expected[0]) and losses[2] == pytest.approx(expected[2])
    assert losses[1] != pytest.approx(expected[1])


def test_losses_of_a_checkpoint_are_those_of_its_logits(tmp_path):
    workspace = Workspace("qwen2", tmp_path)
    kinds = ["affine", "rotation", "rotation", "affine"]
    folder = workspace.checkpoint(Setting(4, 4, 4, 4), kinds, RoundingOptions(weights="gptq", windows=4))
    tokens = make_tokens(windows=3, seed=5)
    log_probabilities = logits(load_model(folder), tokens).double().log_softmax(-1)[:, :-1]
    targets = torch.from_numpy(tokens[:, 1:]).long()
    expected = -log_probabilities.gather(-1, targets.unsqueeze(-1)).sum((1, 2))
    assert perplexity_losses(open_model(folder), tokens) == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_losses_that_are_not_finite_are_refused(tmp_path, value):
    folder = save_tiny_model("llama_gqa", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"{folder}: the state after block 1 is not finite"):
        perplexity_losses(open_model(folder), make_tokens())


def test_a_head_that_is_not_finite_is_refused(tmp_path):
    folder = save_tiny_model("llama_gqa", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="the loss of window 0 is nan"):
        perplexity_losses(open_model(folder), make_tokens())


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(tmp_path):
    folder = save_tiny_model("llama_gqa", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"].zero_()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokens = make_tokens(windows=2, length=9)
    assert perplexity_losses(open_model(folder), tokens) == pytest.approx(2 * [8 * np.log(48)], rel=1e-6)


@pytest.mark.parametrize("stopped_at", [0, 1])
def test_a_stopped_run_goes_on_at_its_block(tmp_path, monkeypatch, stopped_at):
    folder, tokens = save_tiny_model("llama_gqa", tmp_path / "model"), make_tokens(windows=5, length=14)
    expected = perplexity_losses(open_model(folder), tokens)
    skeleton = open_model(folder)
    read = stop_after(monkeypatch, skeleton, "block", stopped_at)
    with pytest.raises(Stopped):
        window_losses(skeleton, tokens, Scratch(tmp_path / "scratch", "one"))
    # Products may take another order of sums where a tensor lies at another address.
    assert window_losses(skeleton, tokens, Scratch(tmp_path / "scratch", "one")) == pytest.approx(expected, rel=1e-6)
    assert read == [call(0), call(1)]  # none twice
    read.clear()
    window_losses(skeleton, tokens, Scratch(tmp_path / "scratch", "two"))
    assert read == [call(0), call(1)]


def test_a_block_at_a_time_gives_the_bits_of_the_whole_model(tmp_path):
    kinds = ["affine", "rotation", "rotation", "affine"]
    folder = Workspace("qwen3", tmp_path).checkpoint(Setting(4, 4, 4, 4), kinds, RoundingOptions(weights="rtn"))
    tokens, skeleton = make_tokens(windows=2, length=14), open_model(folder)
    whole = load_model(folder).get_decoder()(torch.from_numpy(tokens).long(), use_cache=False).last_hidden_state
    states, arguments = skeleton.embed(torch.from_numpy(tokens).long()), skeleton.block_arguments(14)
    with torch.no_grad():
        for index in range(skeleton.num_blocks):
            states = skeleton.block(index)(states, **arguments[index])
    assert torch.equal(skeleton.finish(states), whole)
