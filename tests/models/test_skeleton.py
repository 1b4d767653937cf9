"""A model driven block by block against transformers' own."""

from dataclasses import replace

import pytest
import torch
from models_for_tests import (
    MODELS,
    ROTATABLE,
    DoubleNorm,
    logits,
    make_tokens,
    relative_error,
    save_tiny_model,
    transformers_model,
)  # fmt: skip

from altq.experiment.kinds import HALVES, sublayer_name
from altq.models import skeleton as skeleton_module
from altq.models.skeleton import Skeleton
from altq.models.sublayer import Sublayer
from altq.runtime.device import ON_CPU
from altq.transforms.rotation import random_orthogonal


@pytest.mark.parametrize("name", MODELS)
def test_blocks_filled_one_at_a_time_are_the_model(name, tmp_path):
    folder, tokens = save_tiny_model(name, tmp_path), make_tokens(windows=2, length=11)
    reference = transformers_model(folder)
    ids = torch.from_numpy(tokens).long()
    with torch.no_grad():
        hidden_states = reference(ids, output_hidden_states=True, use_cache=False).hidden_states
    skeleton = Skeleton(folder)
    assert all(p.is_meta for p in skeleton.model.get_submodule(skeleton.family.blocks).parameters())
    states, arguments = skeleton.embed(ids), skeleton.block_arguments(11)
    assert torch.equal(states, hidden_states[0])
    for block in range(skeleton.num_blocks):
        module = skeleton.block(block)
        for half in HALVES:
            sublayer = Sublayer(module, skeleton.family, half)
            with torch.no_grad():
                states = states + sublayer.after_norm(sublayer.norm(states), arguments[block])
        if block + 1 < skeleton.num_blocks:  # the last of transformers' states is behind the last norm
            assert relative_error(states, hidden_states[block + 1]) < 1e-6
    assert relative_error(skeleton.model.get_decoder().norm(states), hidden_states[-1]) < 1e-6
    assert relative_error(logits(skeleton.fill(), tokens), logits(reference, tokens)) < 1e-6


def test_blocks_are_new_each_time_and_have_no_gradients(tmp_path):
    skeleton = Skeleton(save_tiny_model("llama_gqa", tmp_path))
    first, again = skeleton.block(1), skeleton.block(1)
    assert first is not again
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert not any(p.requires_grad or p.is_meta for p in first.parameters())
    assert not torch.equal(skeleton.block(0).self_attn.q_proj.weight, first.self_attn.q_proj.weight)


def test_a_double_skeleton_is_double_throughout(tmp_path):
    skeleton = Skeleton(save_tiny_model("qwen2", tmp_path), torch.float64)
    assert {p.dtype for p in skeleton.fill().parameters()} == {torch.float64}
    assert logits(skeleton.model, make_tokens(1, 5)).dtype == torch.float64


def test_sublayers_are_numbered_attention_first():
    assert [sublayer_name(s) for s in (0, 1, 6, 7)] == [
        "block 0 attention", "block 0 ffn", "block 3 attention", "block 3 ffn"
    ]  # fmt: skip


def double_norms(model, offset):
    """Put DoubleNorm in place of every norm of a model in float64."""
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            model.set_submodule(name, DoubleNorm(module, offset))
    return model


@pytest.mark.parametrize("name", ROTATABLE)
def test_a_rotated_stream_is_the_same_model(name, tmp_path):
    folder, tokens = save_tiny_model(name, tmp_path), make_tokens(windows=2, length=11)
    reference = double_norms(transformers_model(folder, torch.float64), 0.0)
    expected = logits(reference, tokens)
    plain = Skeleton(folder, torch.float64)
    rotation = random_orthogonal(plain.config.hidden_size, torch.Generator().manual_seed(0))
    rotated = Skeleton(folder, torch.float64, rotation)
    model = double_norms(rotated.fill(), rotated.family.norm_offset)
    assert relative_error(logits(model, tokens), expected) < 1e-10
    ids = torch.from_numpy(tokens).long()
    torch.testing.assert_close(rotated.embed(ids), plain.embed(ids) @ rotation, rtol=0, atol=1e-12)
    # The stream itself is another one, and the head is not the embedding any more.
    assert relative_error(rotated.embed(ids), plain.embed(ids)) > 0.5
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert head.data_ptr() != embedding.data_ptr() and not torch.equal(head, embedding)
    assert rotated.config.tie_word_embeddings is False
    assert not any(p.requires_grad or p.is_meta for p in model.parameters())
    # In float32 it is transformers' model as it stands.
    single = Skeleton(folder, rotation=rotation.float()).fill()
    assert relative_error(logits(single, tokens), logits(transformers_model(folder), tokens)) < 1e-5


def test_without_a_rotation_a_head_stays_tied(tmp_path):
    skeleton = Skeleton(save_tiny_model("llama_tied", tmp_path))
    assert skeleton.config.tie_word_embeddings and "lm_head.weight" not in skeleton.outer_tensors
    model = skeleton.fill()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_rotation_that_is_not_orthogonal_is_another_model(tmp_path):
    # What the tests above would see if a rotation folded on one side only.
    folder, tokens = save_tiny_model("llama_gqa", tmp_path), make_tokens(windows=1, length=7)
    rotation = torch.eye(36, dtype=torch.float64)
    rotation[0, 1] = 0.01
    found = logits(Skeleton(folder, torch.float64, rotation).fill(), tokens)
    assert relative_error(found, logits(transformers_model(folder, torch.float64), tokens)) > 1e-4


def test_the_next_block_is_read_while_one_is_at_work_and_is_the_same(tmp_path, monkeypatch):
    folder = save_tiny_model("llama_gqa", tmp_path, num_hidden_layers=4)
    expected = [Skeleton(folder).block(block).state_dict() for block in range(4)]
    skeleton = Skeleton(folder)
    monkeypatch.setattr(skeleton_module, "traits_of", lambda _: replace(ON_CPU, reads_ahead=True))
    ahead = []
    for block in range(4):
        tensors = skeleton.resident_block(block).state_dict()
        ahead.append(skeleton.weights._ahead._ahead and skeleton.weights._ahead._ahead[0])
        assert tensors.keys() == expected[block].keys()
        assert all(torch.equal(tensors[name], tensor) for name, tensor in expected[block].items())
    assert ahead == [1, 2, 3, None]


def test_an_error_of_reading_ahead_is_that_of_its_block(tmp_path, monkeypatch):
    folder = save_tiny_model("llama_gqa", tmp_path, num_hidden_layers=3)
    skeleton = Skeleton(folder)
    monkeypatch.setattr(skeleton_module, "traits_of", lambda _: replace(ON_CPU, reads_ahead=True))
    (folder / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError) as at_once:
        skeleton.block(1)
    skeleton.weights.read_ahead(1, torch.clone)
    with pytest.raises(ValueError) as later:
        skeleton.resident_block(1)
    assert str(later.value) == str(at_once.value) and "model.safetensors" in str(later.value)
