"""A model driven block by block against transformers' own."""

import pytest
import torch

from altq.models.skeleton import Skeleton
from altq.models.sublayer import HALVES, Sublayer, sublayer_name
from models_for_tests import MODELS, logits, make_tokens, relative_error, save_tiny_model, transformers_model


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
