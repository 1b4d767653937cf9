"""Fused projections taken apart: nothing is computed, and what does not go into parts is refused."""

import pytest
import torch
from models_for_tests import save_tiny_model
from safetensors.torch import load_file, save_file

from altq.models.skeleton import Skeleton
from altq.models.weights import ModelWeights
from altq.selection.weight_statistics import weight_statistics

PARTS = {
    "self_attn.qkv_proj": {"q_proj": 40, "k_proj": 8, "v_proj": 8},
    "mlp.gate_up_proj": {"gate_proj": 56, "up_proj": 56},
}


@pytest.fixture
def folder(tmp_path):
    return save_tiny_model("phi3", tmp_path)


def test_parts_are_the_rows_of_the_stored_matrix_in_order(folder):
    weights, stored = ModelWeights(folder), load_file(folder / "model.safetensors")
    for fused, parts in PARTS.items():
        whole, names = f"model.layers.1.{fused}", list(parts)
        tensors = [weights.tensor(f"{whole}.{name}.weight") for name in names]
        assert [len(tensor) for tensor in tensors] == list(parts.values())
        assert torch.equal(torch.cat(tensors), stored[f"{whole}.weight"])
        assert f"{whole}.weight" not in weights.names
        for name, tensor in zip(names, tensors, strict=True):
            pieces = list(weights.chunks(f"{whole}.{name}.weight", 3 * 40))
            assert max(map(len, pieces)) == 3 and torch.equal(torch.cat(pieces), tensor)


def test_a_split_layer_is_the_fused_one(folder):
    stored = load_file(folder / "model.safetensors")["model.layers.0.self_attn.qkv_proj.weight"]
    block, x = Skeleton(folder, torch.float64).block(0), torch.randn(3, 5, 40, dtype=torch.float64)
    torch.testing.assert_close(block.self_attn.qkv_proj(x), x @ stored.double().T, rtol=0, atol=1e-13)


def test_statistics_are_those_of_each_part(folder):
    attention, ffn, *_ = weight_statistics(folder)["sublayers"]
    names = [name for names in attention["sites"].values() for name in names]
    assert len(names) == 4 and len({name for names in ffn["sites"].values() for name in names}) == 3


def test_a_matrix_with_other_rows_is_refused_by_the_name_in_its_file(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.gate_up_proj.weight"
    save_file(tensors | {name: tensors[name][:-1].clone()}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"tensor {name} has 111 rows, but config.json makes them 112 \(gate_proj"):
        ModelWeights(folder)
