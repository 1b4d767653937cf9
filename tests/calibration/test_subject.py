"""A subject: a full-precision model and its states, from which sublayers are taken with weights of their own."""

import pytest
import torch
from models_for_tests import Workspace, make_tokens
from safetensors.torch import load_file

from altq.calibration.subject import Subject


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace("llama_gqa", tmp_path_factory.mktemp("subject"), tokens=make_tokens(windows=2, length=7))


def test_it_has_two_sublayers_for_each_block(workspace):
    subject = workspace.subject()
    assert subject.num_sublayers == 4 == subject.states.num_sublayers


def test_arguments_are_those_of_windows_as_long_as_the_states_and_are_recorded_once(workspace):
    subject = workspace.subject()
    assert len(subject.arguments) == 2
    for arguments in subject.arguments:
        cosines, sines = arguments["position_embeddings"]
        assert cosines.shape[-2] == sines.shape[-2] == 7
    assert subject.arguments is subject.arguments


def test_sublayers_of_a_call_share_one_copy_of_their_block(workspace):
    subject = workspace.subject()
    attention, ffn = subject.sublayers([2, 3])
    assert (attention.name, ffn.name) == ("attention", "ffn") and attention.block is ffn.block
    original = load_file(workspace.model / "model.safetensors")
    name = "self_attn.q_proj"
    assert torch.equal(attention.linears()[name].weight, original[f"model.layers.1.{name}.weight"])


def test_a_change_of_a_sublayer_reaches_no_other_call(workspace):
    subject = workspace.subject()
    (changed,), (other,) = subject.sublayers([1]), subject.sublayers([1])
    before = {name: linear.weight.clone() for name, linear in other.linears().items()}
    for linear in changed.linears().values():
        linear.weight.zero_()
    (later,) = subject.sublayers([1])
    for name, weight in before.items():
        assert weight.any()
        assert torch.equal(other.linears()[name].weight, weight) and torch.equal(later.linears()[name].weight, weight)


def test_weights_have_the_type_that_is_asked_for(workspace):
    subject = Subject.open(workspace.model, workspace.states, dtype=torch.float64)
    assert {p.dtype for p in subject.sublayers([0])[0].block.parameters()} == {torch.float64}


def test_a_rotation_folds_into_the_weights_that_read_the_stream(workspace):
    rotation = torch.linalg.qr(torch.randn(36, 36, generator=torch.Generator().manual_seed(0)))[0]
    subject = Subject.open(workspace.model, workspace.states, rotation=rotation)
    original = load_file(workspace.model / "model.safetensors")
    (ffn,) = subject.sublayers([1])
    gain = original["model.layers.0.post_attention_layernorm.weight"]
    expected = original["model.layers.0.mlp.up_proj.weight"].double() * gain.double() @ rotation.double()
    torch.testing.assert_close(ffn.linears()["mlp.up_proj"].weight.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("missing", ["model", "states"])
def test_a_folder_that_is_not_complete_is_refused_by_name(workspace, tmp_path, missing):
    folders = {"model": workspace.model, "states": workspace.states} | {missing: tmp_path / "empty"}
    (tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match="empty"):
        Subject.open(folders["model"], folders["states"])
