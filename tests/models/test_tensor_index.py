"""One reader says which tensors a model folder has: what it says is what transformers loads."""

import json

import pytest
import torch
from models_for_tests import (
    make_tokens,
    perplexity_losses,
    save_tiny_model,
    transformers_losses,
    transformers_model,
)  # fmt: skip
from safetensors.torch import load_file, save_file

from altq.models.model_folder import INDEX_FILE, SINGLE_FILE
from altq.models.skeleton import Skeleton
from altq.models.weights import ModelWeights

TOKENS = make_tokens(windows=2, length=9)


@pytest.fixture
def sharded(tmp_path):
    """A folder with an index of two files."""
    folder = save_tiny_model("llama_gqa", tmp_path / "model")
    transformers_model(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / SINGLE_FILE).unlink(missing_ok=True)
    assert (folder / INDEX_FILE).is_file()
    return folder


def rewrite_index(folder, change):
    index = json.loads((folder / INDEX_FILE).read_text())
    change(index)
    (folder / INDEX_FILE).write_text(json.dumps(index))


def test_a_tensor_that_the_index_forgets_is_read_from_its_file(sharded):
    rewrite_index(sharded, lambda index: index["weight_map"].pop("lm_head.weight"))
    assert perplexity_losses(Skeleton(sharded), TOKENS) == pytest.approx(transformers_losses(sharded, TOKENS), rel=1e-5)


def test_a_head_that_no_file_has_is_missing(sharded):
    file = sharded / json.loads((sharded / INDEX_FILE).read_text())["weight_map"]["lm_head.weight"]
    tensors = load_file(file)
    del tensors["lm_head.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    rewrite_index(sharded, lambda index: index["weight_map"].pop("lm_head.weight"))
    with pytest.raises(ValueError, match=r"lacks 1 tensors of the model, among them lm_head.weight"):
        Skeleton(sharded)


def test_nothing_is_left_on_the_meta_device(sharded):
    model = Skeleton(sharded).fill()
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def test_a_single_file_is_read_though_an_index_says_otherwise(sharded, tmp_path):
    other = save_tiny_model("llama_gqa", tmp_path / "other", seed=1)
    (other / SINGLE_FILE).rename(sharded / SINGLE_FILE)
    expected = transformers_losses(sharded, TOKENS)
    assert perplexity_losses(Skeleton(sharded), TOKENS) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("place", ["../outside.safetensors", "/tmp/o.safetensors", "below/inside.safetensors", ".."])
def test_a_file_outside_the_folder_is_refused(sharded, place):
    def move(index):
        index["weight_map"]["lm_head.weight"] = place

    rewrite_index(sharded, move)
    with pytest.raises(ValueError, match=r"index.json: weight_map.lm_head.weight"):
        ModelWeights(sharded)


@pytest.mark.parametrize("content", [{}, [], None, {"weight_map": {}}, {"weight_map": ["a"]}, {"weight_map": {"a": 3}}])
def test_an_index_without_a_map_is_one_message(sharded, content):
    (sharded / INDEX_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"model.safetensors.index.json.*correct or replace it"):
        ModelWeights(sharded)


def test_a_tensor_in_two_files_is_refused(sharded):
    files = sorted(sharded.glob("*.safetensors"))
    tensors = load_file(files[1])
    save_file(tensors | {name: 2 * t for name, t in load_file(files[0]).items()}, files[1], metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"both .* and .* hold the tensor"):
        ModelWeights(sharded)


def test_old_frequencies_are_left_out_and_any_other_tensor_is_refused(tmp_path):
    folder = save_tiny_model("llama_gqa", tmp_path)
    tensors = load_file(folder / SINGLE_FILE)
    frequencies = {f"model.layers.{block}.self_attn.rotary_emb.inv_freq": torch.ones(3) for block in range(2)}
    save_file(tensors | frequencies, folder / SINGLE_FILE, metadata={"format": "pt"})
    weights = ModelWeights(folder)
    assert set(weights.skipped) == set(frequencies) and set(weights.names) == set(tensors)
    expected = transformers_losses(folder, TOKENS)
    assert perplexity_losses(Skeleton(folder), TOKENS) == pytest.approx(expected, rel=1e-5)
    bias = {"model.layers.0.self_attn.o_proj.bias": torch.ones(36)}
    save_file(tensors | bias, folder / SINGLE_FILE, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"has 1 tensors that a llama model .* no place for, among them .*o_proj.bias"):
        Skeleton(folder)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.bool])
def test_what_is_not_full_precision_is_refused_by_its_name(tmp_path, dtype):
    folder = save_tiny_model("llama_gqa", tmp_path)
    tensors = load_file(folder / SINGLE_FILE)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(dtype)
    save_file(tensors, folder / SINGLE_FILE, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model.safetensors: tensor model.norm.weight is .* give the full-precision"):
        ModelWeights(folder)
