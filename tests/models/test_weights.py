import json

import pytest
import torch
from safetensors.torch import save_file

from altq.models.family import family_of
from altq.models.weights import ModelWeights


@pytest.fixture
def tensors():
    llama = family_of("llama")
    names = [name for half in (llama.attention, llama.ffn) for name in half.projections]
    generator = torch.Generator().manual_seed(0)
    blocks = {
        f"model.layers.{block}.{name}.weight": torch.randn(5, 3, generator=generator)
        for block in range(11)
        for name in names
    }
    return {"model.embed_tokens.weight": torch.randn(7, 3, generator=generator), **blocks}


def write(folder, tensors, num_shards=1, **config):
    folder.mkdir(exist_ok=True)
    sizes = {"hidden_size": 3, "intermediate_size": 5, "num_attention_heads": 1, "vocab_size": 7}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 11, **sizes, **config}))
    if num_shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    weight_map = {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        part = dict(list(tensors.items())[shard::num_shards])
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("num_shards", [1, 3])
def test_reads_every_tensor(tmp_path, tensors, num_shards):
    weights = ModelWeights(write(tmp_path / "m", tensors, num_shards))
    assert weights.num_blocks == 11
    assert set(weights.names) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(weights.tensor(name), tensor)
        assert weights.shape(name) == tuple(tensor.shape)


def test_a_block_is_named_relative_to_itself(tmp_path, tensors):
    weights = ModelWeights(write(tmp_path / "m", tensors))
    block = weights.block(1)  # not also block 10
    assert len(block) == 7
    assert torch.equal(block["self_attn.q_proj.weight"], tensors["model.layers.1.self_attn.q_proj.weight"])
    with pytest.raises(ValueError, match="no block 11; the model has 11"):
        weights.block(11)


@pytest.mark.parametrize("max_elements", [1, 3, 6, 8, 100])
def test_chunks_are_whole_rows_in_order(tmp_path, tensors, max_elements):
    weights = ModelWeights(write(tmp_path / "m", tensors))
    chunks = list(weights.chunks("model.embed_tokens.weight", max_elements))
    assert all(chunk.numel() <= max(3, max_elements) for chunk in chunks)
    assert torch.equal(torch.cat(chunks), tensors["model.embed_tokens.weight"])


def test_unknown_family(tmp_path, tensors):
    with pytest.raises(ValueError, match="'mamba' is not known"):
        ModelWeights(write(tmp_path / "m", tensors, model_type="mamba"))


def test_missing_projection_is_named(tmp_path, tensors):
    with pytest.raises(ValueError, match=r"no tensor 'model.layers.11.self_attn.q_proj.weight'"):
        ModelWeights(write(tmp_path / "m", tensors, num_hidden_layers=12))


def test_missing_tensor_is_named(tmp_path, tensors):
    with pytest.raises(ValueError, match=r"no tensor 'lm_head.weight'"):
        ModelWeights(write(tmp_path / "m", tensors)).tensor("lm_head.weight")


@pytest.mark.parametrize("num_shards", [1, 2])
def test_truncated_file_is_refused(tmp_path, tensors, num_shards):
    folder = write(tmp_path / "m", tensors, num_shards)
    damaged = max(folder.glob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{damaged.name} is corrupt or cut"):
        ModelWeights(folder)


def test_index_that_disagrees_with_its_shards(tmp_path, tensors):
    folder = write(tmp_path / "m", tensors, num_shards=2)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["made.up"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"has no tensor 'made.up'"):
        ModelWeights(folder)


def test_missing_shard_or_config(tmp_path, tensors):
    folder = write(tmp_path / "m", tensors, num_shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-00002-of-00002.safetensors is missing"):
        ModelWeights(folder)
    with pytest.raises(ValueError, match="is not a model folder"):
        ModelWeights(tmp_path / "nowhere")
