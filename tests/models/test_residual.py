"""A rotated residual stream: the folded weights against explicit products, and the model that stays itself."""

import pytest
import torch
from models_for_tests import MODELS, ROTATABLE, save_tiny_model

from altq.models.family import FAMILIES
from altq.models.residual import ResidualRotation, fold_gain, rotate_projections
from altq.models.skeleton import Skeleton
from altq.transforms.rotation import random_orthogonal


def orthogonal(size, seed=0):
    return random_orthogonal(size, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: save_tiny_model(name, tmp_path_factory.mktemp(name)) for name in MODELS}


@pytest.mark.parametrize("name", ROTATABLE)
def test_what_reads_and_what_writes_the_stream_by_explicit_products(folders, name):
    plain = Skeleton(folders[name], torch.float64)
    size = plain.config.hidden_size
    rotation = orthogonal(size)
    block, folded = plain.block(1), plain.block(1)
    ResidualRotation(rotation, plain.family).fold_block(folded)
    norms = {"self_attn": block.input_layernorm.weight, "mlp": block.post_attention_layernorm.weight}
    for path, linear in block.named_modules():
        if not isinstance(linear, torch.nn.Linear):
            continue
        found = folded.get_submodule(path)
        expected, bias = linear.weight, linear.bias
        if path.endswith(("o_proj", "down_proj")):
            expected = rotation.T @ expected
            bias = None if bias is None else rotation.T @ bias
        else:
            expected = expected @ torch.diag(norms[path.split(".")[0]]) @ rotation
        torch.testing.assert_close(found.weight, expected, rtol=0, atol=1e-13, msg=path)
        assert not torch.allclose(found.weight, linear.weight, atol=1e-3)
        assert (found.bias is None) == (bias is None)
        if bias is not None:
            torch.testing.assert_close(found.bias, bias, rtol=0, atol=1e-13, msg=path)
    for norm in (folded.input_layernorm, folded.post_attention_layernorm):
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
    for other in ("q_norm", "k_norm"):  # they do not see the stream
        if hasattr(block.self_attn, other):
            assert torch.equal(getattr(folded.self_attn, other).weight, getattr(block.self_attn, other).weight)


@pytest.mark.parametrize("name", ROTATABLE)
def test_embedding_head_and_last_norm(folders, name):
    skeleton = Skeleton(folders[name], torch.float64)
    rotation = orthogonal(skeleton.config.hidden_size)
    tensors = skeleton.outer_tensors
    before = {n: t.clone() for n, t in tensors.items()}
    folded = ResidualRotation(rotation, skeleton.family).fold_outer(tensors)
    embedding, gain = before["model.embed_tokens.weight"], before["model.norm.weight"]
    head = before.get("lm_head.weight", embedding)
    assert ("lm_head.weight" in before) != skeleton.config.tie_word_embeddings
    expected = {
        "model.embed_tokens.weight": embedding @ rotation,
        "lm_head.weight": head @ torch.diag(gain) @ rotation,
        "model.norm.weight": torch.ones_like(gain),
    }
    assert folded.keys() == expected.keys()
    for tensor_name, tensor in expected.items():
        torch.testing.assert_close(folded[tensor_name], tensor, rtol=0, atol=1e-13)
    assert all(torch.equal(tensors[n], t) for n, t in before.items())  # what was given stays as it was


def test_a_norm_with_an_offset_folds_its_whole_gain(folders):
    # Gemma's norms multiply by 1 + weight; its sublayers cannot be rotated, but their gain folds.
    skeleton = Skeleton(folders["gemma3_text"], torch.float64)
    block, half = skeleton.block(0), skeleton.family.ffn
    norm, gate = block.pre_feedforward_layernorm, block.mlp.gate_proj
    weight, gain = gate.weight.clone(), 1 + norm.weight.clone()
    fold_gain(block, half, 1.0)
    torch.testing.assert_close(gate.weight, weight @ torch.diag(gain), rtol=0, atol=1e-13)
    assert torch.equal(norm.weight, torch.zeros_like(norm.weight))


def test_weights_of_any_type_are_folded_in_float64(folders):
    exact, rounded = (Skeleton(folders["llama_biases"], dtype) for dtype in (torch.float64, torch.float32))
    rotation = orthogonal(20)
    blocks = [skeleton.block(0) for skeleton in (exact, rounded)]
    for block in blocks:
        ResidualRotation(rotation, exact.family).fold_block(block)
    for (path, expected), found in zip(blocks[0].named_parameters(), blocks[1].parameters(), strict=True):
        assert found.dtype == torch.float32
        # Rounded twice, with the gain and with the rotation: 0.09 to 0.1 of a step; sums in float32 are off by 0.2.
        step = torch.finfo(torch.float32).eps * expected.abs().max()
        assert (found.double() - expected).abs().max() < step, path
        assert (found.double() - expected).square().mean().sqrt() < 0.14 * step, path


def test_projections_are_rotated_with_gradients_for_the_rotation(folders):
    skeleton = Skeleton(folders["llama_biases"], torch.float64)
    half, block = skeleton.family.attention, skeleton.block(0)
    weights = {name: block.get_submodule(name).weight for name in half.projections}
    biases = {name: block.get_submodule(name).bias for name in half.projections}

    def rotated(rotation):
        new_weights, new_biases = rotate_projections(half, weights, biases, rotation)
        assert new_weights.keys() == weights.keys() and new_biases.keys() == biases.keys()
        return *new_weights.values(), new_biases["self_attn.o_proj"]

    # Not orthogonal: the gradient is that of the products, the optimiser brings it to the manifold.
    start = torch.randn(20, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(rotated, start, fast_mode=True)


def test_a_family_with_norms_behind_its_sublayers_is_refused_by_name(folders):
    message = (
        "post_attention_layernorm of this family scales what self_attn adds .* choose a method that does not rotate"
    )
    with pytest.raises(ValueError, match=message):
        ResidualRotation(orthogonal(24), FAMILIES["gemma3_text"])
    with pytest.raises(ValueError, match=message):
        Skeleton(folders["gemma3_text"], rotation=orthogonal(24))
