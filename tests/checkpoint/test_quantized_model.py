import shutil

import pytest
import torch
from models_for_tests import Workspace, change_checkpoint, logits, relative_error, transformers_model

from altq.checkpoint.format import CHECKPOINT_FILE
from altq.checkpoint.quantized_model import load_model
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting


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
    path = checkpoint / "model-00003-of-00005.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    message = r"model-00003-of-00005.safetensors is corrupt or cut .*; assemble the checkpoint again"
    with pytest.raises(ValueError, match=message):
        load_model(checkpoint)


def test_missing_weights_are_a_clear_error(checkpoint):
    (checkpoint / "model-00001-of-00005.safetensors").unlink()
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


def test_codes_of_another_width_are_refused(checkpoint):
    path = checkpoint / CHECKPOINT_FILE
    path.write_text(path.read_text().replace("W4A4K4V4", "W3A4K4V4"))
    with pytest.raises(ValueError, match="do not hold 30 codes of 3 bits"):
        load_model(checkpoint)


def test_an_interrupted_checkpoint_is_not_taken_for_a_model(checkpoint):
    # quantization.json is written last: without it the folder says that it is a model, which it is not.
    (checkpoint / CHECKPOINT_FILE).unlink()
    with pytest.raises(ValueError, match=r"has no tensor 'model.layers.0.self_attn.q_proj.weight'"):
        load_model(checkpoint)
