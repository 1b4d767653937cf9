import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from altq.methods.rounding import RoundingOptions
from altq.methods.quantized_model import CHECKPOINT_FILE, WEIGHTS_FILE, load_model
from altq.setting import Setting
from models_for_tests import Workspace, logits, relative_error, transformers_model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    workspace = Workspace("qwen3", tmp_path_factory.mktemp("checkpoint"))
    kinds = ["affine", "rotation", "rotation", "affine"]
    return workspace, workspace.checkpoint(Setting(4, 4, 4, 4), kinds, RoundingOptions(weights="rtn", windows=4))


@pytest.fixture
def checkpoint(made, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(made[1], tmp_path / "checkpoint")


def change(folder, function):
    tensors = load_file(folder / WEIGHTS_FILE)
    function(tensors)
    save_file(tensors, folder / WEIGHTS_FILE)


def test_a_model_folder_is_loaded_as_it_is(made):
    workspace, _ = made
    expected = logits(transformers_model(workspace.model), workspace.tokens)
    assert relative_error(logits(load_model(workspace.model), workspace.tokens), expected) < 1e-6


def test_a_checkpoint_is_its_tensors_and_their_structure(made, checkpoint):
    workspace, folder = made
    expected = logits(load_model(folder), workspace.tokens)
    assert torch.equal(logits(load_model(checkpoint), workspace.tokens), expected)

    def halve(tensors):
        tensors["model.layers.1.mlp.down_proj.scale"] *= 0.5

    change(checkpoint, halve)
    assert relative_error(logits(load_model(checkpoint), workspace.tokens), expected) > 1e-3


@pytest.mark.parametrize("length", [0, 100, 5000])
def test_truncated_weights_are_a_clear_error(checkpoint, length):
    path = checkpoint / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"model.safetensors cannot be read .*; delete it and assemble it again"):
        load_model(checkpoint)


def test_missing_weights_are_a_clear_error(checkpoint):
    (checkpoint / WEIGHTS_FILE).unlink()
    with pytest.raises(ValueError, match="cannot be read"):
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
    change(checkpoint, lambda tensors: tensors.pop(name))
    with pytest.raises(ValueError, match=rf"lacks.* {name}.*assemble"):
        load_model(checkpoint)


def test_codes_of_another_width_are_refused(checkpoint):
    path = checkpoint / CHECKPOINT_FILE
    path.write_text(path.read_text().replace("W4A4K4V4", "W3A4K4V4"))
    with pytest.raises(ValueError, match="do not hold 30 codes of 3 bits"):
        load_model(checkpoint)


def test_an_interrupted_checkpoint_is_not_taken_for_a_model(checkpoint):
    # quantization.json is written last: without it the folder says that it is a model, which it is not.
    (checkpoint / CHECKPOINT_FILE).unlink()
    with pytest.raises(ValueError, match="has no tensor 'model.layers.0.self_attn.q_proj.weight'"):
        load_model(checkpoint)
