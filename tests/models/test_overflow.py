"""Overflow that a norm would hide behind finite numbers is found wherever a model runs."""

import pytest
import torch
from models_for_tests import (
    MODELS,
    Workspace,
    change_checkpoint,
    logits,
    make_tokens,
    perplexity_losses,
    save_tiny_model,
    transformers_model,
)
from safetensors.torch import load_file, save_file

from altq.calibration.recording import record_states
from altq.checkpoint.quantized_model import load_model, open_model
from altq.evaluation.likelihood import Request, plan_batches, score_batch
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.models.skeleton import Skeleton

PLACES = {
    "model.layers.0.mlp.up_proj": "the input of model.layers.1.input_layernorm",
    "model.layers.1.mlp.up_proj": "the input of model.norm",
    "model.layers.0.self_attn.v_proj": "the input of model.layers.0.post_attention_layernorm",
    "model.embed_tokens": "the input of model.layers.0.input_layernorm",
}


def multiply(folder, name, factor):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[f"{name}.weight"] *= factor
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("name", PLACES)
def test_what_transformers_computes_without_a_word_is_no_perplexity(tmp_path, name):
    folder, tokens = multiply(save_tiny_model("llama_gqa", tmp_path), name, 1e30), make_tokens()
    assert logits(transformers_model(folder), tokens).isfinite().all()
    with pytest.raises(ValueError, match=f"{tmp_path}: {PLACES[name]} reaches .*its square overflows float32"):
        perplexity_losses(open_model(folder), tokens)


@pytest.mark.parametrize("name", [name for name in PLACES if "layers.1" not in name])
def test_no_states_are_recorded_of_it(tmp_path, name):
    folder = multiply(save_tiny_model("llama_gqa", tmp_path / "model"), name, 1e30)
    # The gradients that are observed overflow before the next sublayer reads the state.
    with pytest.raises(ValueError, match=f"{PLACES[name]} reaches|observed_00..safetensors is not written: tensor"):
        record_states(folder, make_tokens(), loss="relative", folder=tmp_path / "states", fingerprint="test")
    assert not (tmp_path / "states" / "states.json").exists()


def test_neither_a_likelihood_nor_a_text_comes_of_it(tmp_path):
    model = load_model(multiply(save_tiny_model("llama_gqa", tmp_path), "model.layers.1.mlp.up_proj", 1e30))
    batches = plan_batches([Request(0, [1, 2], [3])], 12)
    with pytest.raises(ValueError, match="overflows float32"):
        score_batch(model, batches[0])
    with pytest.raises(ValueError, match="overflows float32"):
        model.generate(torch.tensor([[1, 2]]), max_new_tokens=2)


def test_a_checkpoint_is_watched_as_its_model_is(tmp_path):
    workspace = Workspace("llama_gqa", tmp_path)
    rounding = RoundingOptions(weights="rtn", windows=4)
    folder = workspace.checkpoint(Setting(4, 4, 4, 4), ["affine"] * 4, rounding)

    def enlarge(tensors):
        if "model.layers.1.mlp.up_proj.scale" in tensors:
            tensors["model.layers.1.mlp.up_proj.scale"] *= 1e30

    change_checkpoint(folder, enlarge)
    with pytest.raises(ValueError, match=r"the input of model.norm reaches"):
        perplexity_losses(open_model(folder), workspace.tokens)


def test_norms_of_queries_and_keys_are_watched_too(tmp_path):
    folder = multiply(save_tiny_model("qwen3", tmp_path), "model.layers.0.self_attn.q_proj", 1e30)
    with pytest.raises(ValueError, match=r"the input of model.layers.0.self_attn.q_norm reaches"):
        perplexity_losses(open_model(folder), make_tokens())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_norm_of_a_family_is_watched(tmp_path, name, dtype):
    model = Skeleton(save_tiny_model(name, tmp_path), dtype).fill()
    norms = [module for path, module in model.named_modules() if path.endswith("norm")]
    assert len(norms) >= 5
    for norm in norms:
        size = norm.weight.shape[0]
        norm(torch.full((2, 3, size), 1e18 / size, dtype=dtype))  # large, but not too large
        # Each token by itself is not too large.
        norm(torch.full((2, 40, size), (3e38 / size) ** 0.5, dtype=dtype))
        with pytest.raises(ValueError, match="overflows float32"):
            norm(torch.full((2, 3, size), 1e20, dtype=dtype))


def test_what_is_not_finite_is_left_to_be_seen_where_it_ends(tmp_path):
    norm = Skeleton(save_tiny_model("llama_gqa", tmp_path)).fill().model.norm
    for value in (float("nan"), float("inf")):
        x = torch.ones(2, 36)
        x[1, 3] = value
        assert norm(x)[1].isnan().any() and norm(x)[0].isfinite().all()
