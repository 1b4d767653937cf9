"""A checkpoint on the packed kernels is the checkpoint that multiplies codes as floats."""

import numpy as np
import pytest
import torch
from models_for_tests import Workspace, logits, make_tokens, perplexity_losses, relative_error
from transformers import DynamicCache

from altq.checkpoint.half_embedding import halve_embedding
from altq.checkpoint.packed_model import load_packed_model, open_packed_model, weight_memory
from altq.checkpoint.quantized_model import load_model, open_model
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting

KINDS = ["affine", "rotation", "balance", "identity"]


@pytest.fixture(scope="module", params=["llama_gqa", "qwen2", "mistral"])
def made(request, tmp_path_factory):
    """(folder of a checkpoint, tokens); qwen2 has biases."""
    workspace = Workspace(request.param, tmp_path_factory.mktemp(request.param))
    rounding = RoundingOptions(weights="rtn", windows=4)
    return workspace.checkpoint(Setting(4, 4, 4, 4), KINDS, rounding), workspace.tokens


def perplexity(losses, tokens):
    return np.exp(np.sum(losses) / (len(tokens) * (tokens.shape[1] - 1)))


@pytest.mark.parametrize("variant", [None, "torch"])
def test_its_perplexity_is_that_of_the_checkpoint(made, variant):
    folder, _ = made
    tokens = make_tokens(windows=6, length=20, seed=3)
    expected = perplexity(perplexity_losses(open_model(folder), tokens), tokens)
    packed = perplexity(perplexity_losses(open_packed_model(folder, variant), tokens), tokens)
    assert packed == pytest.approx(expected, rel=1e-3)


def test_its_logits_are_those_of_the_checkpoint(made):
    folder, tokens = made
    found, expected = (logits(load(folder), tokens) for load in (load_packed_model, load_model))
    errors = sorted(map(relative_error, found, expected))
    # Sums in another order may put a value on the border of two codes on its other side, in a window or so.
    assert errors[-2] < 1e-2 and errors[-1] < 0.3


@pytest.mark.parametrize("setting", [Setting(3, 3, 3, 3), Setting(2, 8, 16, 16), Setting(8, 4, 2, 16)])
def test_other_widths(setting, tmp_path):
    workspace = Workspace("llama_gqa", tmp_path)
    folder = workspace.checkpoint(setting, ["affine"] * 4, RoundingOptions(weights="rtn", windows=4))
    tokens = make_tokens(windows=6, length=20, seed=3)
    expected = perplexity(perplexity_losses(open_model(folder), tokens), tokens)
    assert perplexity(perplexity_losses(open_packed_model(folder), tokens), tokens) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("setting", "message"), [(Setting(16, 4, 4, 4), "weights have 16 bits"), (Setting(5, 4, 4, 4), "not of 5")]
)
def test_widths_that_the_kernels_do_not_know(setting, message, tmp_path):
    workspace = Workspace("llama_gqa", tmp_path)
    folder = workspace.checkpoint(setting, ["identity"] * 4, RoundingOptions(weights="rtn", windows=4))
    with pytest.raises(ValueError, match=message):
        load_packed_model(folder)


def test_only_a_checkpoint_is_packed(tmp_path):
    workspace = Workspace("llama_gqa", tmp_path)
    with pytest.raises(ValueError, match="only a quantized checkpoint"):
        load_packed_model(workspace.model)
    memory = weight_memory(load_model(workspace.model))
    assert memory.projections == memory.projections_in_float32 > 0 and memory.rest > 0


def test_weights_take_a_fraction_of_the_memory(tmp_path):
    workspace = Workspace("llama_gqa", tmp_path)
    folder = workspace.checkpoint(Setting(4, 4, 4, 4), ["identity"] * 4, RoundingOptions(weights="rtn", windows=4))
    full, packed = weight_memory(load_model(workspace.model)), weight_memory(load_packed_model(folder, "torch"))
    assert packed.projections_in_float32 == full.projections and packed.rest == full.rest
    assert packed.projections < full.projections / 2


@pytest.mark.parametrize("load", [load_model, load_packed_model])
def test_a_token_at_a_time_is_the_whole_window(made, load):
    folder, tokens = made
    model, errors = load(folder), []
    for window in torch.from_numpy(tokens).long().split(1):
        expected = logits(model, window.numpy())
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            pieces = [
                model(piece, past_key_values=cache).logits for piece in (window[:, :5], *window[:, 5:].split(1, dim=1))
            ]
        errors.append(relative_error(torch.cat(pieces, dim=1), expected))
    # A sum in another order can move a value over the edge between two codes, in some windows.
    assert sorted(errors)[len(errors) // 2 - 1] < 1e-2 and max(errors) < 0.4
    assert torch.equal(logits(model, window.numpy()), expected), "the joints are as they were"
    keys = cache.layers[0].keys
    assert all(len(row.unique()) <= 16 for row in keys[0, 0]), "keys are quantized when they are appended"


def test_embedding_and_head_in_bfloat16(made):
    folder, tokens = made
    model = load_packed_model(folder)
    expected, before = logits(model, tokens), weight_memory(model)
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    halve_embedding(model)
    outputs, after = logits(model, tokens), weight_memory(model)
    assert outputs.dtype == torch.float32 and 0 < relative_error(outputs, expected) < 0.5
    vocabulary, hidden = model.get_input_embeddings().weight.shape
    assert before.rest - after.rest == 2 * vocabulary * hidden * (1 if is_tied else 2)
    assert after.projections == before.projections
