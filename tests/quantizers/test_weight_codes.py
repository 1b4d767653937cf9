"""Weights on grids with scales and zero points of rows and of groups, against a reference written out in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from altq.quantizers.integer import Codes, dequantized
from altq.quantizers.quantizer import Quantizer
from altq.quantizers.weight_codes import WeightCodes, WeightGrid

quantizers = st.builds(
    Quantizer,
    bits=st.sampled_from([2, 3, 4, 5, 8]),
    signed=st.booleans(),
    asymmetric=st.booleans(),
    group=st.sampled_from([None, 1, 5, 8, 13]),
)


def make_weight(seed, d_out=4, d_in=13):
    return torch.randn(d_out, d_in, generator=torch.Generator().manual_seed(seed)) + 0.3


def reference(weight, quantizer, clip):
    """The values of each group by itself, from the definition: [d_out, d_in] in float64."""
    values = torch.zeros_like(weight, dtype=torch.float64)
    for row in range(len(weight)):
        for start in range(0, weight.shape[1], quantizer.group or weight.shape[1]):
            stop = min(start + (quantizer.group or weight.shape[1]), weight.shape[1])
            x = weight[row, start:stop].double()
            if quantizer.asymmetric:
                low, high = min(0, x.min().item()) * clip, max(0, x.max().item()) * clip
                scale, lowest, highest = (high - low) / (2**quantizer.bits - 1), 0, 2**quantizer.bits - 1
            else:
                peak = x[x.abs().argmax()].item()
                scale = (-peak if quantizer.signed else abs(peak)) * clip / (2 ** (quantizer.bits - 1) - 1)
                lowest, highest, low = -(2 ** (quantizer.bits - 1)), 2 ** (quantizer.bits - 1) - 1, 0.0
            if quantizer.group is not None:
                scale = torch.tensor(scale).bfloat16().item()
            zero = min(max(round(-low / scale), lowest), highest) if quantizer.asymmetric else 0
            codes = ((x / scale).round() + zero).clamp(lowest, highest) - zero
            values[row, start:stop] = codes * scale
    return values


@settings(max_examples=200, deadline=None)
@given(quantizer=quantizers, clip=st.sampled_from([1.0, 0.8, 0.45]), seed=st.integers(0, 2**31))
def test_codes_are_those_of_the_definition(quantizer, clip, seed):
    weight = make_weight(seed).double()
    codes = quantizer.grid(weight, torch.full(quantizer.clip_shape(*weight.shape), clip, dtype=weight.dtype)).round(
        weight
    )
    assert codes.codes.dtype == torch.int8
    assert int(codes.codes.min()) >= -(2 ** (quantizer.bits - 1))
    assert int(codes.codes.max()) < 2 ** (quantizer.bits - 1)
    torch.testing.assert_close(codes.dequantized(), reference(weight, quantizer, clip), rtol=1e-12, atol=1e-12)
    assert torch.equal(dequantized(codes.factored()), codes.dequantized())


@settings(max_examples=50, deadline=None)
@given(quantizer=quantizers, seed=st.integers(0, 2**31))
def test_calibration_sees_the_same_values_but_for_the_type_of_the_scale(quantizer, seed):
    weight = make_weight(seed).double()
    clip = torch.full(quantizer.clip_shape(*weight.shape), 0.9, dtype=weight.dtype)
    values, fake = quantizer.grid(weight, clip).round(weight).dequantized(), quantizer.fake(weight, clip)
    if quantizer.group is None:
        assert torch.equal(values, fake)
    else:  # a scale is off by 2^-9 at most, a code by one where that moves it over a border
        step = (weight.amax() - weight.amin()) / (2 ** (quantizer.bits - 1) - 1)
        assert (values - fake).abs().max() <= 1.1 * step + 2**-9 * weight.abs().max()


def test_gradients_reach_weight_and_factors_of_groups():
    weight, quantizer = make_weight(0).requires_grad_(), Quantizer(3, signed=True, group=5)
    clip = torch.full(quantizer.clip_shape(4, 13), 0.7, requires_grad=True)
    quantizer.fake(weight, clip).square().sum().backward()
    assert weight.grad.shape == (4, 13) and clip.grad.shape == (4, 3, 1)
    assert clip.grad.abs().amin() > 0


@pytest.mark.parametrize("zero_point", [False, True])
def test_the_scales_that_a_checkpoint_multiplies_are_of_bfloat16(zero_point):
    weight, quantizer = make_weight(1), Quantizer(4, signed=True, asymmetric=zero_point, group=4)
    rows = torch.tensor([0.37, 1.0, 91.3, 2e-5])
    grid = quantizer.grid(weight, torch.full(quantizer.clip_shape(4, 13), 0.9), rows)
    stored = grid.scale * rows.unsqueeze(1)
    torch.testing.assert_close(stored.bfloat16().float(), stored, rtol=1e-6, atol=0)
    # Rounded to nearest: half a unit of 8 bits, and no more.
    plain = Quantizer(4, signed=True, asymmetric=zero_point).grid(weight[:, :4], torch.tensor([[0.9]]))
    torch.testing.assert_close(grid.scale[:, 0], plain.scale[:, 0], rtol=2**-8, atol=0)


@pytest.mark.parametrize("asymmetric", [False, True])
def test_groups_of_zeros_stay_zero(asymmetric):
    quantizer = Quantizer(2, signed=True, asymmetric=asymmetric, group=2)
    weight = torch.tensor([[0.0, 0.0, 1.0, -1.0, 0.0]])
    codes = quantizer.grid(weight, torch.ones(quantizer.clip_shape(1, 5))).round(weight)
    assert codes.dequantized()[0, [0, 1, 4]].tolist() == [0, 0, 0]
    assert codes.dequantized()[0, 2:4].abs().min() > 0


@given(d_in=st.integers(1, 20), group=st.integers(1, 40))
def test_a_group_wider_than_the_input_is_refused(d_in, group):
    quantizer = Quantizer(4, group=group)
    if group <= d_in:
        assert quantizer.clip_shape(3, d_in) == (3, -(-d_in // group), 1)
    else:
        with pytest.raises(ValueError, match=f"a group of {group} channels is wider than the {d_in} channels"):
            quantizer.clip_shape(3, d_in)


def test_codes_and_grids_that_do_not_belong_together_are_refused():
    codes = torch.zeros(2, 6, dtype=torch.int8)
    with pytest.raises(ValueError, match=r"codes \[2, 6\] need scales \[2, 2\], not \[2, 3\]"):
        WeightCodes(codes, WeightGrid(4, torch.ones(2, 3), group=4))
    with pytest.raises(ValueError, match=r"need zero points \[2, 1\], not \[2\]"):
        WeightCodes(codes, WeightGrid(4, torch.ones(2, 1), torch.zeros(2, dtype=torch.int8)))


def test_a_row_with_one_scale_is_left_as_codes_for_exact_products():
    grid = WeightGrid(8, torch.tensor([[0.5]]), torch.tensor([[-128]], dtype=torch.int8))
    factored = WeightCodes(torch.tensor([[127, -128]], dtype=torch.int8), grid).factored()
    assert isinstance(factored, Codes) and factored.codes.tolist() == [[255.0, 0.0]]
