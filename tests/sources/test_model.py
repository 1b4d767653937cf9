"""Fetching models: made and local ones, and that what is wrong with a model is said before anything else runs."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from altq.experiment.sources import Made, ModelDescription
from altq.models.model_folder import ModelFolder
from altq.runtime import files
from altq.sources import hub, model, verification
from altq.sources.made import make_model
from altq.sources.model import fetch_model

NUM_BLOCKS = 3
MADE = ModelDescription(num_blocks=NUM_BLOCKS, made=Made(seed=1))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "made"
    fetch_model(MADE, folder)
    return folder


@pytest.fixture
def local(original, tmp_path):
    """A copy of a model folder, to be damaged."""
    folder = tmp_path / "local"
    folder.mkdir()
    for path in original.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def fetch_local(local, tmp_path, num_blocks=NUM_BLOCKS):
    fetch_model(ModelDescription(num_blocks=num_blocks, path=str(local)), tmp_path / "fetched")


def kurtosis(weight):
    values = weight.double().flatten() - weight.double().mean()
    return (values.pow(4).mean() / values.pow(2).mean().square() - 3).item()


def test_made_model_is_deterministic(original, tmp_path):
    fetch_model(MADE, tmp_path / "again")
    names = {path.name for path in original.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "source.json"} <= names
    assert {path.name: path.read_bytes() for path in original.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()
    }
    make_model(Made(seed=2), NUM_BLOCKS, tmp_path / "other")
    assert files.sha256(tmp_path / "other" / "model.safetensors") != files.sha256(original / "model.safetensors")


def test_making_leaves_the_global_generator_alone(tmp_path):
    state = torch.get_rng_state()
    make_model(Made(), 1, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_made_model_loads_and_has_outliers(original):
    loaded = AutoModelForCausalLM.from_pretrained(original)
    tokenizer = AutoTokenizer.from_pretrained(original)
    text = "The import statement finds a module.\n\n  x = 3"
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids[0]) == text and ids.shape[1] < len(text) / 1.5
    with torch.no_grad():
        output = loaded(ids, output_hidden_states=True)
    assert output.logits.shape == (1, ids.shape[1], 512) and output.logits.isfinite().all()
    assert all(kurtosis(states) > 10 for states in output.hidden_states[:-1])
    seen = [kurtosis(layer.self_attn.q_proj.weight) for layer in loaded.model.layers]
    assert max(seen) - min(seen) > 1 and max(seen) > 1


def test_provenance(original):
    provenance = files.read_json(original / "source.json")
    assert provenance["source"]["made"]["seed"] == 1
    assert provenance["family"] == "llama" and provenance["num_blocks"] == NUM_BLOCKS
    weights = load_file(original / "model.safetensors")
    assert provenance["num_weights"] == sum(tensor.numel() for tensor in weights.values())
    assert set(provenance["files"]) == {path.name for path in original.iterdir()} - {"source.json"}
    for name, sha256 in provenance["files"].items():
        assert files.sha256(original / name) == sha256


@pytest.mark.parametrize("umask", [0o002, 0o077])
def test_fetched_files_have_the_mode_that_the_umask_leaves(tmp_path, umask):
    before = os.umask(umask)
    try:
        fetch_model(MADE, tmp_path / "made")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "made").iterdir()}
    assert "model.safetensors" in modes and set(modes.values()) == {0o666 & ~umask}, modes


def test_local_folder_is_linked(local, tmp_path):
    (local / "optimizer.pt").touch()
    fetch_local(local, tmp_path)
    assert (tmp_path / "fetched" / "model.safetensors").resolve() == local / "model.safetensors"
    assert not (tmp_path / "fetched" / "optimizer.pt").exists()
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_stale_files_go(original, local, tmp_path):
    (tmp_path / "fetched").mkdir()
    (tmp_path / "fetched" / "model-00001-of-00002.safetensors").touch()
    (tmp_path / "fetched" / "notes.md").touch()
    fetch_local(local, tmp_path)
    assert {path.name for path in (tmp_path / "fetched").iterdir()} == {path.name for path in original.iterdir()} | {
        "notes.md"
    }


def test_wrong_num_blocks(local, tmp_path):
    with pytest.raises(ValueError, match=r"has 3 blocks .* says num_blocks: 4; correct it"):
        fetch_local(local, tmp_path, num_blocks=4)
    assert not (tmp_path / "fetched").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model family 'gpt2' is not known"),
        ({"quantization_config": {"bits": 4}}, "quantized already"),
        ({"hidden_size": 128}, r"model.safetensors: tensor .* has shape \[.*\], but config.json makes it \["),
    ],
)
def test_wrong_config(local, tmp_path, change, message):
    config = files.read_json(local / "config.json")
    files.write_json(local / "config.json", {**config, **change})
    with pytest.raises(ValueError, match=message):
        fetch_local(local, tmp_path)


def test_truncated_safetensors_names_file_and_tensor(local, tmp_path):
    path = local / "model.safetensors"
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    last = max((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"][1])
    path.write_bytes(data[:-5])
    with pytest.raises(
        ValueError, match=f"model.safetensors is corrupt or cut .*not whole is {last}.* correct or replace it"
    ):
        fetch_local(local, tmp_path)
    assert not (tmp_path / "fetched").exists()


@pytest.mark.parametrize("data", [b"", b"\x10", b"\xff" * 64, (20).to_bytes(8, "little") + b"{" * 20])
def test_corrupt_header_is_refused(local, tmp_path, data):
    (local / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"model.safetensors is corrupt or cut .*header is not readable"):
        fetch_local(local, tmp_path)


def damage_nan(weights):
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")


def damage_missing(weights):
    del weights["model.norm.weight"], weights["lm_head.weight"]


def damage_integer(weights):
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.int8)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_nan, "model.safetensors: tensor model.layers.1.mlp.up_proj.weight holds NaN"),
        (damage_missing, "lacks 2 tensors of the model, among them lm_head.weight, model.norm.weight"),
        (damage_integer, "tensor model.norm.weight is I8, not floating point"),
    ],
)
def test_bad_tensors_are_named(local, tmp_path, damage, message):
    weights = load_file(local / "model.safetensors")
    damage(weights)
    (local / "model.safetensors").unlink()
    save_file(weights, local / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        fetch_local(local, tmp_path)


def test_shards(local, tmp_path):
    AutoModelForCausalLM.from_pretrained(local).save_pretrained(tmp_path / "sharded", max_shard_size="200KB")
    shards = sorted(path.name for path in (tmp_path / "sharded").glob("*.safetensors"))
    assert len(shards) > 2
    (local / "model.safetensors").unlink()
    for path in (tmp_path / "sharded").iterdir():
        path.rename(local / path.name)
    fetch_local(local, tmp_path)
    assert verification.check_tensors(ModelFolder.at(tmp_path / "fetched")) > 0
    (local / shards[1]).unlink()
    with pytest.raises(ValueError, match=f"{shards[1]} is missing"):
        fetch_local(local, tmp_path)


def test_tied_weights_need_no_head(local, tmp_path):
    config = files.read_json(local / "config.json")
    files.write_json(local / "config.json", {**config, "tie_word_embeddings": True})
    weights = load_file(local / "model.safetensors")
    del weights["lm_head.weight"]
    (local / "model.safetensors").unlink()
    save_file(weights, local / "model.safetensors")
    fetch_local(local, tmp_path)


def test_missing_tokenizer(local, tmp_path):
    (local / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json and what belongs to it cannot be loaded"):
        fetch_local(local, tmp_path)
    (local / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"no tokenizer.json; add the tokenizer"):
        fetch_local(local, tmp_path)


def test_bad_gguf(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(ValueError, match=r"m.gguf cannot be converted"):
        fetch_model(ModelDescription(num_blocks=2, path=str(tmp_path / "m.gguf")), tmp_path / "fetched")
    with pytest.raises(ValueError, match=r"m.gguf has sha256 .* but the configuration says 000"):
        path = str(tmp_path / "m.gguf")
        fetch_model(ModelDescription(num_blocks=2, path=path, sha256="0" * 64), tmp_path / "fetched")


def test_no_disk_space(tmp_path, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(OSError, match="no disk space"):
        fetch_model(MADE, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


def test_interrupted_fetch_looks_incomplete(tmp_path, monkeypatch):
    fetch_model(MADE, tmp_path / "fetched")
    moved, replace = [], model.os.replace

    def interrupted(source, target):
        moved.append(target)
        if len([path for path in moved if path.parent == tmp_path / "fetched"]) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(model.os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch_model(MADE, tmp_path / "fetched")
    assert not (tmp_path / "fetched" / "source.json").exists()
    fetch_model(MADE, tmp_path / "fetched")
    assert [path.name for path in tmp_path.iterdir()] == ["fetched"]


def test_hub_model_is_looked_at_before_its_weights(original, tmp_path, monkeypatch):
    fetched = []

    def snapshot(address, folder, patterns):
        assert address == "a/b@main"
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
            if name == "config.json" or patterns[-1] != "config.json":
                fetched.append(name)
                (folder / name).write_bytes((original / name).read_bytes())

    monkeypatch.setattr(hub, "_snapshot", snapshot)
    with pytest.raises(ValueError, match="has 3 blocks"):
        fetch_model(ModelDescription(num_blocks=4, hub="a/b@main"), tmp_path / "fetched")
    assert fetched == ["config.json"]
    fetch_model(ModelDescription(num_blocks=3, hub="a/b@main"), tmp_path / "fetched")
    assert files.sha256(tmp_path / "fetched" / "model.safetensors") == files.sha256(original / "model.safetensors")


def test_a_record_has_the_name_of_a_local_model_and_not_its_place(local, tmp_path):
    fetch_local(local, tmp_path)
    record = (tmp_path / "fetched" / "source.json").read_text()
    assert json.loads(record)["source"] == {"num_blocks": NUM_BLOCKS, "path": "local"}
    assert str(tmp_path) not in record


def test_a_refusal_of_a_local_model_says_its_own_place(local, tmp_path):
    (local / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=f"{local}/model.safetensors is missing .*; correct or replace it") as refused:
        fetch_local(local, tmp_path)
    assert ".partial" not in str(refused.value)


def test_old_frequencies_are_left_out_with_a_line_in_the_log(local, tmp_path, caplog):
    weights = load_file(local / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(weights, local / "model.safetensors", metadata={"format": "pt"})
    with caplog.at_level("INFO", logger="altq"):
        fetch_local(local, tmp_path)
    assert "1 tensors are left out, such as model.layers.0.self_attn.rotary_emb.inv_freq" in caplog.text


def test_a_bias_that_the_family_does_not_have_is_refused(local, tmp_path):
    weights = load_file(local / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.bias"] = torch.ones(64)
    save_file(weights, local / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"has 1 tensors .* among them model.layers.0.self_attn.q_proj.bias; give"):
        fetch_local(local, tmp_path)
    assert not (tmp_path / "fetched").exists()
