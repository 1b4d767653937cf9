import shutil

import pytest
import torch
from models_for_tests import Workspace, change_checkpoint, logits, relative_error, transformers_model

from altq.checkpoint.format import CHECKPOINT_FILE, CHECKPOINT_INDEX_FILE, begin_checkpoint, labels_of
from altq.checkpoint.quantized_model import load_model
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.runtime.files import read_json, write_json


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    workspace = Workspace("qwen3", tmp_path_factory.mktemp("checkpoint"))
    kinds = ["affine", "rotation", "rotation", "affine"]
    return workspace, workspace.checkpoint(Setting(4, 4, 4, 4), kinds, RoundingOptions(weights="rtn", windows=4))


@pytest.fixture
def checkpoint(made, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(made[1], tmp_path / "checkpoint")


def test_a_model_folder_is_loaded_as_it_is(made):
    workspace, _ = made
    expected = logits(transformers_model(workspace.model), workspace.tokens)
    assert relative_error(logits(load_model(workspace.model), workspace.tokens), expected) < 1e-6


def test_a_checkpoint_is_its_tensors_and_their_structure(made, checkpoint):
    workspace, folder = made
    expected = logits(load_model(folder), workspace.tokens)
    assert torch.equal(logits(load_model(checkpoint), workspace.tokens), expected)

    def halve(tensors):
        if "model.layers.1.mlp.down_proj.scale" in tensors:
            tensors["model.layers.1.mlp.down_proj.scale"] *= 0.5

    change_checkpoint(checkpoint, halve)
    assert relative_error(logits(load_model(checkpoint), workspace.tokens), expected) > 1e-3


@pytest.mark.parametrize("length", [0, 100, 1000])
def test_truncated_weights_are_a_clear_error(checkpoint, length):
    path = checkpoint / "altq-00003-of-00005.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    message = r"altq-00003-of-00005.safetensors is corrupt or cut .*; assemble the checkpoint again"
    with pytest.raises(ValueError, match=message):
        load_model(checkpoint)


def test_missing_weights_are_a_clear_error(checkpoint):
    (checkpoint / "altq-00001-of-00005.safetensors").unlink()
    with pytest.raises(ValueError, match=r"is missing .*; assemble the checkpoint again"):
        load_model(checkpoint)


@pytest.mark.parametrize(
    "name",
    [
        "model.norm.weight",
        "lm_head.weight",
        "model.layers.1.self_attn.k_norm.weight",
        "model.layers.0.mlp.up_proj.codes",
        "model.layers.0.mlp.up_proj.scale",
        "model.layers.1.qkv.clip",
    ],
)
def test_a_tensor_that_is_missing_is_named(checkpoint, name):
    change_checkpoint(checkpoint, lambda tensors: tensors.pop(name, None))
    with pytest.raises(ValueError, match=rf"has no tensor '{name}' though .* says so; assemble"):
        load_model(checkpoint)


def test_a_checkpoint_without_its_index_is_a_clear_error(checkpoint):
    (checkpoint / CHECKPOINT_INDEX_FILE).unlink()
    with pytest.raises(ValueError, match=rf"{CHECKPOINT_INDEX_FILE} is missing; assemble the checkpoint again"):
        load_model(checkpoint)


@pytest.mark.parametrize("file", ["../other.safetensors", "/other.safetensors", "a/b.safetensors"])
def test_an_index_names_files_of_its_own_folder(checkpoint, file):
    index = read_json(checkpoint / CHECKPOINT_INDEX_FILE)
    index["weight_map"]["model.norm.weight"] = file
    write_json(checkpoint / CHECKPOINT_INDEX_FILE, index)
    with pytest.raises(ValueError, match=rf"{CHECKPOINT_INDEX_FILE}: .*weight_map.*; assemble the checkpoint again"):
        load_model(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update(num_hidden_layers="two"), "num_hidden_layers"),
        (lambda config: config.update(logit_scale=2.0), "logit_scale"),
        (lambda config: config["quantization_config"].update(setting="W4"), "quantization_config: .*setting"),
        (lambda config: config["quantization_config"]["blocks"].pop(), "quantization_config describes 1 blocks of 2"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_by_name(checkpoint, change, message):
    config = read_json(checkpoint / "config.json")
    change(config)
    write_json(checkpoint / "config.json", config)
    with pytest.raises(ValueError, match=f"config.json.*{message}"):
        load_model(checkpoint)


def test_codes_of_another_width_are_refused(checkpoint):
    path = checkpoint / "config.json"
    path.write_text(path.read_text().replace("W4A4K4V4", "W3A4K4V4"))
    with pytest.raises(ValueError, match="do not hold 30 codes of 3 bits"):
        load_model(checkpoint)


def test_an_interrupted_checkpoint_is_not_taken_for_a_model(checkpoint):
    begin_checkpoint(checkpoint)  # as assembly begins; config.json is written when all tensors are
    with pytest.raises(ValueError, match=r"config.json is missing: .* is not a model folder"):
        load_model(checkpoint)


def test_a_checkpoint_of_an_older_version_is_refused_with_the_remedy(checkpoint):
    config = read_json(checkpoint / "config.json")
    del config["quantization_config"]
    write_json(checkpoint / "config.json", config)
    for read in (load_model, labels_of):
        with pytest.raises(ValueError, match=r"of an older version.*assemble the checkpoint again"):
            read(checkpoint)


def test_a_checkpoint_without_labels_runs_and_is_in_no_table(made, checkpoint):
    (checkpoint / CHECKPOINT_FILE).unlink()
    expected = logits(load_model(made[1]), made[0].tokens)
    assert torch.equal(logits(load_model(checkpoint), made[0].tokens), expected)
    with pytest.raises(ValueError, match="nothing says what results are to call this checkpoint"):
        labels_of(checkpoint)


def test_weights_of_an_older_version_do_not_stay_where_another_is_assembled(made):
    workspace, folder = made
    old = [folder / "model.safetensors.index.json", folder / "model-00001-of-00005.safetensors"]
    for path in old:
        path.write_text('{"weight_map": {"model.layers.0.qkv.clip": "model-00001-of-00005.safetensors"}}')
    workspace.checkpoint(Setting(4, 4, 4, 4), ["rotation"] * 4, RoundingOptions(weights="rtn", windows=4))
    assert not any(path.exists() for path in old)


@pytest.mark.parametrize("name", ["model.safetensors", "model-00001-of-00002.safetensors"])
def test_a_model_is_not_written_over(tmp_path, name):
    (tmp_path / name).write_text("weights")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a model already"):
        begin_checkpoint(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {name, "config.json"}
