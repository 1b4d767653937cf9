"""The references compute what altq's own quantizers and transforms do, and say so in the same bytes."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from altq.quantizers import packing as altq_packing
from altq.quantizers.integer import quantized_linear
from altq.quantizers.quantizer import Quantizer
from altq.quantizers.uniform import fake_quantize_asymmetric
from altq.transforms.kronecker import apply_kronecker
from kernels.reference.attention import decode_attention
from kernels.reference.cache import append, dequantize, empty_cache
from kernels.reference.kronecker import kronecker, transform_quantize
from kernels.reference.linear import linear
from kernels.reference.packing import BITS, pack, packed_length, unpack


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", BITS)
def test_the_bytes_are_those_of_altq(bits):
    half = 1 << (bits - 1)
    codes = torch.randint(-half, half, (3, 5, 16), generator=torch.Generator().manual_seed(bits), dtype=torch.int8)
    packed = pack(codes, bits)
    assert torch.equal(packed, altq_packing.pack_codes(codes, bits))
    assert packed.shape[-1] == packed_length(16, bits)
    assert torch.equal(unpack(packed, bits, signed=True), codes.short())
    assert torch.equal(unpack(packed, bits, signed=False), codes.short() & (2 * half - 1))


@pytest.mark.parametrize("bits", [0, 1, 5, 16])
def test_unknown_bits_are_refused(bits):
    with pytest.raises(ValueError, match=f"not of {bits}"):
        packed_length(16, bits)


@pytest.mark.parametrize(("length", "bits", "multiple"), [(15, 4, 2), (14, 2, 4), (12, 3, 8)])
def test_half_empty_bytes_are_refused(length, bits, multiple):
    with pytest.raises(ValueError, match=f"pad them to a multiple of {multiple}"):
        packed_length(length, bits)


@pytest.mark.parametrize(("left", "right"), [(3, 8), (3, None), (None, 8)])
def test_the_transform_is_altqs(left, right):
    x, left, right = normal(5, 24), left and normal(left, left, seed=1), right and normal(right, right, seed=2)
    expected = apply_kronecker(x, torch.eye(3) if left is None else left, right)
    torch.testing.assert_close(kronecker(x, left, right), expected)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("signed", [True, False])
def test_codes_and_scales_are_altqs(bits, signed):
    x, clips = normal(7, 24), torch.tensor([1.0, 0.8])
    packed, scales = transform_quantize(x, None, None, clips, bits=bits, signed=signed)
    for output, clip in enumerate(clips):
        expected = Quantizer(bits, signed=signed).codes(x, clip)
        assert torch.equal(unpack(packed[output], bits, signed=True), expected.codes.short())
        torch.testing.assert_close(scales[output], expected.scale[:, 0], rtol=1e-6, atol=0)


def test_a_row_of_zeros_has_scale_1_and_one_that_is_not_finite_scale_nan():
    x = normal(4, 16)
    x[1], x[2, 5], x[3, 0] = 0, torch.inf, torch.nan
    packed, scales = transform_quantize(x, None, None, torch.ones(1), bits=4)
    assert scales[0, 1] == 1 and not packed[0, 1:].any() and packed[0, 0].any()
    assert scales[0].isnan().tolist() == [False, False, True, True]


def test_the_linear_is_altqs():
    clip = torch.tensor(0.9)
    x, weight = (Quantizer(4, signed=True).codes(t, clip) for t in (normal(3, 32), normal(8, 32, seed=1)))
    bias, residual = normal(8, seed=2), normal(3, 8, seed=3)
    packed = [pack(t.codes.to(torch.int8), 4) for t in (x, weight)]
    y = linear(
        packed[0][None], x.scale.T, packed[1], weight.scale[:, 0], bias=bias, residual=residual, dtype=torch.float32
    )
    torch.testing.assert_close(y, quantized_linear(x, weight) + bias + residual)


@pytest.mark.parametrize("bits", BITS)
def test_cache_and_attention_are_altqs(bits):
    batch, heads, kv_heads, tokens, head_dim = 2, 6, 2, 5, 16
    qkv = normal(batch, tokens, (heads + 2 * kv_heads) * head_dim)
    factors = normal(kv_heads, head_dim, head_dim, seed=1) + 4 * torch.eye(head_dim)
    duals = torch.linalg.inv(factors).mT.contiguous()
    clip = torch.tensor([[0.9, 0.8], [1.0, 0.7]])
    caches = [empty_cache(batch, kv_heads, 7, head_dim, bits, dtype=torch.float32) for _ in range(2)]
    positions = torch.tensor([0, 2], dtype=torch.int32)
    queries, keys, values = append(
        qkv, positions, *caches, key_bits=bits, value_bits=bits, key_clip=clip, value_clip=clip,
        key_factors=factors, query_factors=duals, keep_values=True,
    )  # fmt: skip
    q, k, v = qkv.view(batch, tokens, -1, head_dim).transpose(1, 2).split((heads, kv_heads, kv_heads), dim=1)
    expected_keys = fake_quantize_asymmetric(k @ factors, bits, clip.unsqueeze(1))
    expected_values = fake_quantize_asymmetric(v, bits, clip.unsqueeze(1))
    torch.testing.assert_close(keys, expected_keys, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(values, expected_values)
    assert torch.equal(dequantize(caches[1], bits)[0, :, :5], values[0])
    assert torch.equal(dequantize(caches[1], bits)[1, :, 2:], values[1])
    torch.testing.assert_close(queries, q @ duals.repeat_interleave(3, 0), rtol=1e-4, atol=1e-4)

    newest = torch.tensor([4, 6], dtype=torch.int32)
    caches[0].ranges[0, :, 5:] = torch.nan  # beyond the first sequence's newest token
    output = decode_attention(queries[:, :, -1], *caches, newest, key_bits=bits, value_bits=bits)
    zeros = torch.zeros(kv_heads, 2, head_dim)  # the second sequence starts behind two tokens of zeros
    for sequence, (k, v) in enumerate(((keys[0], values[0]), [torch.cat((zeros, t[1]), 1) for t in (keys, values)])):
        expected = scaled_dot_product_attention(queries[sequence, :, -1:], k, v, enable_gqa=True)
        torch.testing.assert_close(output[sequence], expected[:, 0], rtol=1e-4, atol=1e-4)
