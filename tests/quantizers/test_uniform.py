import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from altq.quantizers.uniform import (
    asymmetric_range,
    code_range,
    fake_quantize,
    fake_quantize_asymmetric,
    quantize,
    quantize_asymmetric,
    symmetric_scale,
)

SEEDS = st.integers(0, 2**31)
BITS = st.sampled_from([2, 3, 4, 8])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Round(torch.autograd.Function):
    """Round with gradient one: the straight-through estimator in its plainest form."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


def plain_symmetric(x, scale, bits):
    """Eq. 1 and 2 by autograd alone."""
    return Round.apply(x / scale).clamp(*code_range(bits)) * scale


def plain_asymmetric(x, bits, clip):
    low = x.amin(-1, keepdim=True).clamp(max=0) * clip[..., :1]
    high = x.amax(-1, keepdim=True).clamp(min=0) * clip[..., 1:]
    scale = (high - low) / (2**bits - 1)
    zero = (-low / scale).round().detach()
    return ((Round.apply(x / scale) + zero).clamp(0, 2**bits - 1) - zero) * scale


def test_code_ranges():
    assert [code_range(bits) for bits in (2, 3, 4, 8)] == [(-2, 1), (-4, 3), (-8, 7), (-128, 127)]


def test_symmetric_by_hand():
    x = torch.tensor([[-7.0, 3.4, 0.6, 7.0], [0.0, 0.0, 0.0, 0.0]])
    scale = symmetric_scale(x, 4, signed=False)
    assert scale.tolist() == [[1.0], [1.0]]
    assert quantize(x, scale, 4).tolist() == [[-7, 3, 1, 7], [0, 0, 0, 0]]
    # At half the scale (clip 0.5) 7 is cut to 7 * 0.5 and -7 to -8 * 0.5.
    scale = symmetric_scale(x, 4, 0.5, signed=False)
    assert scale[0].item() == 0.5
    assert fake_quantize(x, scale, 4)[0].tolist() == [-4.0, 3.5, 0.5, 3.5]


@settings(max_examples=50, deadline=None)
@given(bits=BITS, seed=SEEDS, clip=st.sampled_from([1.0, 0.98, 0.6]))
def test_signed_scales_put_the_largest_magnitude_on_the_longer_side(bits, seed, clip):
    x = normal(6, 17, seed=seed)
    scale = symmetric_scale(x, bits, clip, signed=True)
    largest = x.gather(-1, x.abs().argmax(-1, keepdim=True))
    assert (largest / scale < 0).all()
    assert torch.equal(scale.abs(), symmetric_scale(x, bits, clip, signed=False))
    codes = quantize(x, scale, bits)
    lowest, highest = code_range(bits)
    if clip == 0.6:
        assert (codes.gather(-1, x.abs().argmax(-1, keepdim=True)) == lowest).all()
    assert codes.min() >= lowest and codes.max() <= highest and torch.equal(codes, codes.round())


@settings(max_examples=30, deadline=None)
@given(bits=st.sampled_from([3, 4, 8]), seed=SEEDS)  # at 2 bits rounding costs more than clipping
def test_signed_scales_clip_no_more_than_unsigned_ones(bits, seed):
    x = normal(4, 40, seed=seed)
    scales = [symmetric_scale(x, bits, 0.7, signed=signed) for signed in (True, False)]
    errors = [(fake_quantize(x, scale, bits) - x).abs().amax(-1) for scale in scales]
    # The longer side cuts the largest magnitude one step later; the other side cuts nothing larger.
    assert (errors[0] <= errors[1] + 1e-12).all()


@settings(max_examples=50, deadline=None)
@given(bits=BITS, seed=SEEDS, signed=st.booleans())
def test_unclipped_symmetric_error_is_at_most_half_a_step(bits, seed, signed):
    x = normal(5, 23, seed=seed)
    scale = symmetric_scale(x, bits, signed=signed)
    assert ((fake_quantize(x, scale, bits) - x).abs() <= scale.abs() * 0.5 * (1 + 1e-12)).all()


@pytest.mark.parametrize("signed", [False, True])
def test_zero_rows_stay_zero_and_have_finite_gradients(signed):
    x = torch.zeros(3, 5, requires_grad=True)
    clip = torch.tensor([0.9], requires_grad=True)
    scale = symmetric_scale(x, 4, clip, signed=signed)
    assert scale.detach().tolist() == [[1.0]] * 3
    out = fake_quantize(x, scale, 4)
    out.sum().backward()
    assert out.detach().abs().max() == 0
    assert torch.isfinite(x.grad).all() and torch.isfinite(clip.grad).all()
    out = fake_quantize_asymmetric(torch.zeros(2, 4, requires_grad=True), 4, torch.ones(2, requires_grad=True))
    out.sum().backward()
    assert out.detach().abs().max() == 0


@settings(max_examples=40, deadline=None)
@given(bits=BITS, seed=SEEDS, signed=st.booleans(), clip=st.sampled_from([0.4, 0.8, 0.999]))
def test_symmetric_equals_plain_autograd(bits, seed, signed, clip):
    grad = normal(3, 11, seed=seed + 1)
    results = []
    for function in (fake_quantize, plain_symmetric):
        x = normal(3, 11, seed=seed).requires_grad_()
        factor = torch.full((3, 1), clip, dtype=torch.float64, requires_grad=True)
        out = function(x, symmetric_scale(x, bits, factor, signed=signed), bits)
        out.backward(grad)
        results.append((out.detach(), x.grad, factor.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(bits=BITS, seed=SEEDS, low=st.sampled_from([0.5, 0.9, 1.0]), high=st.sampled_from([0.4, 0.999]))
def test_asymmetric_equals_plain_autograd(bits, seed, low, high):
    grad = normal(2, 3, 11, seed=seed + 1)
    results = []
    for function in (fake_quantize_asymmetric, plain_asymmetric):
        x = normal(2, 3, 11, seed=seed).requires_grad_()
        clip = torch.tensor([low, high], dtype=torch.float64).expand(3, 2).clone().requires_grad_()
        out = function(x, bits, clip)
        out.backward(grad)
        results.append((out.detach(), x.grad, clip.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(bits=BITS, seed=SEEDS, shift=st.sampled_from([-5.0, -0.3, 0.0, 2.0]))
def test_unclipped_asymmetric_error_is_at_most_half_a_step(bits, seed, shift):
    x = normal(7, 19, seed=seed) + shift
    step = (x.amax(-1, keepdim=True).clamp(min=0) - x.amin(-1, keepdim=True).clamp(max=0)) / (2**bits - 1)
    found = fake_quantize_asymmetric(x, bits, torch.ones(2, dtype=torch.float64))
    assert ((found - x).abs() <= 0.5 * step * (1 + 1e-12)).all()
    # Every value is a whole number of steps, and zero is one of them.
    assert torch.allclose(found / step, (found / step).round(), atol=1e-9)
    assert all(len(row.unique()) <= 2**bits for row in (found / step).round())


def test_asymmetric_by_hand():
    x = torch.tensor([[-1.0, 0.4, 1.0, 2.0]])
    assert fake_quantize_asymmetric(x, 2, torch.ones(2)).tolist() == [[-1.0, 0.0, 1.0, 2.0]]
    # Clipped to [-0.5, 1]: steps of 0.5.
    assert fake_quantize_asymmetric(x, 2, torch.full((2,), 0.5)).tolist() == [[-0.5, 0.5, 1.0, 1.0]]


@settings(max_examples=60, deadline=None)
@given(bits=BITS, seed=SEEDS, shift=st.sampled_from([-5.0, -0.3, 0.0, 2.0]), clip=st.sampled_from([1.0, 0.9, 0.4]))
def test_asymmetric_codes_less_their_zero_point_times_the_scale_are_the_fake_quantized_values(bits, seed, shift, clip):
    x = normal(5, 19, seed=seed) + shift
    factors = torch.full((2,), clip, dtype=torch.float64)
    scale, zero = asymmetric_range(x, bits, factors)
    assert scale.shape == zero.shape == (5, 1) and (scale > 0).all()
    assert torch.equal(zero, zero.round()) and zero.min() >= 0 and zero.max() <= 2**bits - 1
    codes = quantize_asymmetric(x, scale, zero, bits)
    assert torch.equal(codes, codes.round())
    assert (codes + zero).min() >= 0 and (codes + zero).max() <= 2**bits - 1
    assert torch.equal(codes * scale, fake_quantize_asymmetric(x, bits, factors))


@settings(max_examples=30, deadline=None)
@given(bits=BITS, seed=SEEDS, shift=st.sampled_from([-5.0, 0.0, 5.0]))
def test_asymmetric_codes_have_an_exact_zero(bits, seed, shift):
    x = normal(5, 19, seed=seed) + shift
    x[:, 7] = 0
    scale, zero = asymmetric_range(x, bits, torch.ones(2))
    assert quantize_asymmetric(x, scale, zero, bits)[:, 7].abs().max() == 0
    # All of one sign: the other side has no code, and the largest value still has one.
    largest = x.gather(-1, x.abs().argmax(-1, keepdim=True))
    codes = quantize_asymmetric(largest, scale, zero, bits)
    assert ((codes * scale - largest).abs() <= 0.5 * scale * (1 + 1e-12)).all()


@pytest.mark.parametrize("value", [-3.0, 0.0, 3.0])
def test_a_constant_row_is_kept(value):
    x = torch.full((2, 5), value, dtype=torch.float64)
    scale, zero = asymmetric_range(x, 4, torch.ones(2))
    codes = quantize_asymmetric(x, scale, zero, 4)
    torch.testing.assert_close(codes * scale, x, rtol=1e-12, atol=0)
    assert codes.unique().tolist() == [{-3.0: -15, 0.0: 0, 3.0: 15}[value]]


def test_asymmetric_codes_by_hand():
    # From -1 to 2 in 3 steps of 1: the zero point is 1, codes less it are -1, 0, 1, 2.
    x = torch.tensor([[-1.0, 0.4, 0.6, 2.0]])
    scale, zero = asymmetric_range(x, 2, torch.ones(2))
    assert (scale.item(), zero.item()) == (1.0, 1.0)
    assert quantize_asymmetric(x, scale, zero, 2).tolist() == [[-1.0, 0.0, 1.0, 2.0]]
    assert quantize_asymmetric(torch.tensor([[-9.0, 9.0]]), scale, zero, 2).tolist() == [[-1.0, 2.0]]


def test_nan_is_not_hidden():
    x = torch.tensor([[1.0, float("nan"), 2.0]])
    assert fake_quantize(x, symmetric_scale(x, 4, signed=True), 4).isnan().any()
    assert fake_quantize_asymmetric(x, 4, torch.ones(2)).isnan().any()
    assert quantize_asymmetric(x, *asymmetric_range(x, 4, torch.ones(2)), 4).isnan().any()
