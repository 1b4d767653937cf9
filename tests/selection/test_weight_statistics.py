import json

import pytest
import scipy.stats
import torch
from safetensors.torch import save_file

from altq.models.weights import ModelWeights
from altq.selection import weight_statistics as kurtosis
from altq.selection.weight_statistics import tensor_moments, weight_statistics

SHAPES = {
    "self_attn.q_proj": (8, 6),
    "self_attn.k_proj": (4, 6),
    "self_attn.v_proj": (4, 6),
    "self_attn.o_proj": (6, 8),
    "mlp.gate_proj": (10, 6),
    "mlp.up_proj": (10, 6),
    "mlp.down_proj": (6, 10),
}


def write_model(folder, dtype=torch.float32, **changed):
    generator = torch.Generator().manual_seed(1)
    tensors = {
        f"model.layers.{block}.{name}.weight": torch.randn(shape, generator=generator).to(dtype)
        for block in range(2)
        for name, shape in SHAPES.items()
    }
    tensors.update(changed)
    folder.mkdir()
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "vocab_size": 8}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 2, **sizes}))
    save_file(tensors, folder / "model.safetensors")
    return tensors


def test_every_projection_of_every_block(tmp_path):
    tensors = write_model(tmp_path / "tiny")
    statistics = weight_statistics(tmp_path / "tiny")
    assert (statistics["model"], statistics["num_blocks"]) == ("tiny", 2)
    assert [s["sublayer"] for s in statistics["sublayers"]] == [0, 1, 2, 3]
    assert [s["half"] for s in statistics["sublayers"]] == ["attention", "ffn"] * 2
    assert [s["selected_site"] for s in statistics["sublayers"]] == ["qkv", "gate_up"] * 2
    seen = set()
    for sublayer in statistics["sublayers"]:
        for projections in sublayer["sites"].values():
            for projection, entry in projections.items():
                name = f"model.layers.{sublayer['block']}.{projection}.weight"
                seen.add(name)
                values = tensors[name].double().numpy()
                assert entry["excess_kurtosis"] == pytest.approx(scipy.stats.kurtosis(values, axis=None), rel=1e-10)
                assert entry["std"] == pytest.approx(values.std(), rel=1e-12)
                assert entry["max_abs"] == abs(values).max()
                assert entry["shape"] == list(values.shape)
    assert seen == set(tensors)
    json.dumps(statistics, allow_nan=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_chunks_do_not_matter(tmp_path, monkeypatch, dtype):
    tensors = write_model(tmp_path / "tiny", dtype)
    name = "model.layers.0.mlp.gate_proj.weight"
    monkeypatch.setattr(kurtosis, "CHUNK_ELEMENTS", 13)  # two rows of six
    moments = tensor_moments(ModelWeights(tmp_path / "tiny"), name)
    expected = scipy.stats.kurtosis(tensors[name].double().numpy(), axis=None)
    assert moments.count == 60
    assert moments.excess_kurtosis(name) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("value", "message"), [(0.5, "is constant"), (float("nan"), "not finite")])
def test_bad_weights_are_named(tmp_path, value, message):
    name = "model.layers.1.self_attn.k_proj.weight"
    write_model(tmp_path / "tiny", **{name: torch.full((4, 6), value)})
    with pytest.raises(ValueError, match=f"{name} .*{message}"):
        weight_statistics(tmp_path / "tiny")
