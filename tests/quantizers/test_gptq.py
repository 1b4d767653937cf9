"""GPTQ against optimal brain quantization written out, with an explicit inverse of the remaining Hessian each time."""

import logging

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from altq.quantizers.gptq import HessianFactor, factorize_hessian, gptq_round
from altq.quantizers.quantizer import Quantizer
from altq.quantizers.weight_codes import WeightCodes


def damped(hessian, damping=0.01):
    live = hessian.diagonal() > 0
    mean = hessian.diagonal()[live].mean()
    return hessian + torch.diag(torch.where(live, 0, mean) + damping * mean)


def optimal_brain_quantization(weight, scale, bits, hessian, *, damping=0.01, act_order=False, zero=0, group=None):
    """Codes, and for every place in the order the squared error that a unit of rounding there costs."""
    order = hessian.diagonal().argsort(descending=True, stable=True) if act_order else torch.arange(len(hessian))
    hessian = damped(hessian, damping)
    weight, codes, costs = weight.clone(), torch.zeros_like(weight), []
    zero = zero if isinstance(zero, torch.Tensor) else torch.full_like(scale, zero)
    for place, column in enumerate(order):
        rest = order[place:]
        inverse = torch.linalg.inv(hessian[rest][:, rest])
        step, zero_code = (values[:, column // (group or len(hessian))] for values in (scale, zero))
        codes[:, column] = ((weight[:, column] / step).round() + zero_code).clamp(
            -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        )
        error = weight[:, column] - step * (codes[:, column] - zero_code)
        weight[:, rest] -= torch.outer(error, inverse[0] / inverse[0, 0])
        costs.append(1 / inverse[0, 0])
    return codes.to(torch.int8), torch.stack(costs)


def nearest(weight, scale, bits):
    return (weight / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).to(torch.int8)


def problem(d_out, d_in, bits, seed, *, num_tokens=None, clip=0.9):
    """A weight, a scale that clips its largest entries, and a Hessian with correlated channels of unequal size."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = normal(num_tokens or 2 * d_in, d_in) @ normal(d_in, d_in) * normal(d_in).exp()
    weight = normal(d_out, d_in)
    scale = clip * weight.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 0.5)
    return weight, scale, inputs.T @ inputs / len(inputs)


def output_error(weight, scale, codes, hessian):
    error = weight - scale * codes
    return ((error @ hessian) * error).sum(dim=1)


@settings(max_examples=60, deadline=None)
@given(
    d_out=st.integers(1, 6),
    d_in=st.integers(1, 33),
    bits=st.sampled_from([2, 3, 4, 8]),
    block_size=st.sampled_from([1, 3, 8, 11, 128]),
    act_order=st.booleans(),
    num_tokens=st.sampled_from([1, 5, 60]),
    seed=st.integers(0, 2**31),
)
def test_codes_equal_optimal_brain_quantization(d_out, d_in, bits, block_size, act_order, num_tokens, seed):
    weight, scale, hessian = problem(d_out, d_in, bits, seed, num_tokens=num_tokens)
    expected, _ = optimal_brain_quantization(weight, scale, bits, hessian, act_order=act_order)
    codes = gptq_round(weight, scale, bits, hessian, block_size=block_size, act_order=act_order)
    assert codes.dtype == torch.int8 and codes.shape == weight.shape and codes.is_contiguous()
    assert torch.equal(codes, expected)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("block_size", [32, 48, 128])  # divides, does not divide, one and a bit
def test_codes_equal_optimal_brain_quantization_over_many_blocks(block_size, act_order):
    weight, scale, hessian = problem(24, 160, 3, seed=1)
    expected, _ = optimal_brain_quantization(weight, scale, 3, hessian, damping=0.05, act_order=act_order)
    codes = gptq_round(weight, scale, 3, hessian, block_size=block_size, damping=0.05, act_order=act_order)
    assert torch.equal(codes, expected)
    assert (codes != nearest(weight, scale, 3)).any()


@settings(max_examples=60, deadline=None)
@given(
    d_in=st.integers(1, 33),
    bits=st.sampled_from([2, 3, 4, 8]),
    group=st.sampled_from([None, 1, 4, 7, 33]),
    zero_point=st.booleans(),
    block_size=st.sampled_from([1, 8, 11, 128]),
    act_order=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_groups_and_zero_points_equal_optimal_brain_quantization(
    d_in, bits, group, zero_point, block_size, act_order, seed
):
    assume(group is None or group <= d_in)
    weight, _, hessian = problem(5, d_in, bits, seed)
    # Scales of either sign, of any size beside those of other groups.
    quantizer = Quantizer(bits, signed=True, asymmetric=zero_point, group=group)
    grid = quantizer.grid(weight, torch.full(quantizer.clip_shape(5, d_in), 0.8, dtype=weight.dtype))
    zero = 0 if grid.zero is None else grid.zero
    expected, _ = optimal_brain_quantization(
        weight, grid.scale, bits, hessian, act_order=act_order, zero=zero, group=group
    )
    codes = gptq_round(
        weight, grid.scale, bits, hessian, zero=grid.zero, group=group, block_size=block_size, act_order=act_order
    )
    assert torch.equal(codes, expected)


def test_groups_keep_the_output_better_than_rounding_to_nearest():
    weight, _, hessian = problem(16, 48, 2, 0)
    quantizer = Quantizer(2, signed=True, group=16)
    grid = quantizer.grid(weight, torch.full(quantizer.clip_shape(16, 48), 0.8, dtype=weight.dtype))
    codes = gptq_round(weight, grid.scale, 2, hessian, group=16)
    errors = [
        output_error(weight, 1, WeightCodes(c, grid).dequantized(), hessian).sum()
        for c in (codes, grid.round(weight).codes)
    ]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("act_order", [False, True])
def test_a_dead_column_is_rounded_to_nearest_and_moves_nothing(act_order):
    weight, scale, hessian = problem(5, 12, 4, seed=2)
    dead = torch.tensor([0, 4, 11])
    live = torch.tensor([k for k in range(12) if k not in dead])
    hessian[dead] = 0
    hessian[:, dead] = 0
    codes = gptq_round(weight, scale, 4, hessian, act_order=act_order)
    assert torch.equal(codes, optimal_brain_quantization(weight, scale, 4, hessian, act_order=act_order)[0])
    assert torch.equal(codes[:, dead], nearest(weight, scale, 4)[:, dead])
    alone = gptq_round(weight[:, live].contiguous(), scale, 4, hessian[live][:, live], act_order=act_order)
    assert torch.equal(codes[:, live], alone)


@given(
    d_out=st.integers(1, 5),
    d_in=st.integers(1, 40),
    bits=st.sampled_from([2, 3, 4, 8]),
    act_order=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None)
def test_uncorrelated_inputs_give_exactly_round_to_nearest(d_out, d_in, bits, act_order, dtype, seed):
    weight, scale, hessian = (tensor.to(dtype) for tensor in problem(d_out, d_in, bits, seed))
    expected = nearest(weight, scale, bits)
    for diagonal in (torch.ones(d_in, dtype=dtype), hessian.diagonal()):
        codes = gptq_round(weight, scale, bits, torch.diag(diagonal), block_size=7, act_order=act_order)
        assert torch.equal(codes, expected)


@given(d_out=st.integers(1, 4), d_in=st.integers(1, 24), act_order=st.booleans(), seed=st.integers(0, 2**31))
@settings(deadline=None)
def test_without_clipping_the_error_of_every_row_is_bounded(d_out, d_in, act_order, seed):
    # Nothing holds for GPTQ against round-to-nearest case by case. What does: with no code at the end of its range, the
    # error in the damped Hessian is the sum of cost_k r_k^2 with |r_k| <= scale / 2, while the worst case of
    # round-to-nearest is at least scale^2 / 4 times the trace, and the costs never add up to more than the trace.
    weight, scale, hessian = problem(d_out, d_in, 8, seed, clip=10.0)
    codes = gptq_round(weight, scale, 8, hessian, act_order=act_order)
    assume(bool((codes.abs() < 127).all()))
    _, costs = optimal_brain_quantization(weight, scale, 8, hessian, act_order=act_order)
    errors = output_error(weight, scale, codes, damped(hessian))
    assert (errors <= scale[:, 0].square() / 4 * costs.sum() * (1 + 1e-9)).all()
    assert costs.sum() <= damped(hessian).trace() * (1 + 1e-9)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_error_is_far_below_round_to_nearest_on_average(bits):
    ratios = []
    for seed in range(20):
        weight, scale, hessian = problem(16, 48, bits, seed)
        of_gptq = output_error(weight, scale, gptq_round(weight, scale, bits, hessian), hessian).sum()
        of_nearest = output_error(weight, scale, nearest(weight, scale, bits), hessian).sum()
        ratios.append(of_gptq / of_nearest)
    # About 0.5 for these Hessians.
    assert torch.stack(ratios).mean() < 2 / 3


def test_float32_codes_are_as_good_as_float64_codes():
    weight, scale, hessian = problem(40, 200, 4, seed=3)
    exact = gptq_round(weight, scale, 4, hessian)
    codes = gptq_round(weight.float(), scale.float(), 4, hessian.float())
    assert (codes == exact).float().mean() > 0.99
    error, exact_error = (output_error(weight, scale, each, hessian).sum() for each in (codes, exact))
    assert error == pytest.approx(exact_error.item(), rel=0.01)


def test_one_factor_serves_several_weights_and_rows_are_independent():
    weight, scale, hessian = problem(10, 30, 4, seed=4)
    factor = factorize_hessian(hessian, damping=0.02, act_order=True, dtype=torch.float64)
    together = gptq_round(weight, scale, 4, hessian, damping=0.02, act_order=True)
    assert torch.equal(gptq_round(weight[:3], scale[:3], 4, factor), together[:3])
    assert torch.equal(gptq_round(weight[3:], scale[3:], 4, factor), together[3:])


def test_sum_and_mean_hessians_give_the_same_codes_and_nothing_is_changed_in_place():
    weight, scale, hessian = problem(4, 20, 3, seed=5)
    before = weight.clone(), scale.clone(), hessian.clone()
    assert torch.equal(gptq_round(weight, scale, 3, hessian), gptq_round(weight, scale, 3, 4096 * hessian))
    assert all(torch.equal(now, then) for now, then in zip((weight, scale, hessian), before, strict=True))


def test_feedback_is_the_transposed_unit_factor_of_the_damped_hessian():
    _, _, hessian = problem(1, 25, 4, seed=6)
    factor = factorize_hessian(hessian, dtype=torch.float64)
    assert factor.order is None and factor.damping == 0.01
    _, costs = optimal_brain_quantization(torch.zeros(1, 25).double(), torch.ones(1, 1).double(), 4, hessian)
    assert torch.equal(factor.feedback, factor.feedback.tril())
    assert torch.equal(factor.feedback.diagonal(), torch.ones(25).double())
    rebuilt = factor.feedback.T @ torch.diag(costs) @ factor.feedback
    assert torch.allclose(rebuilt, damped(hessian), rtol=1e-10, atol=1e-10 * hessian.diagonal().max().item())
    assert factorize_hessian(hessian).feedback.dtype == torch.float32


def test_damping_escalates_with_a_log_line_until_cholesky_succeeds(caplog):
    with caplog.at_level(logging.WARNING, logger="altq.quantizers.gptq"):
        factor = factorize_hessian(torch.ones(4, 4), damping=0.0)
    assert factor.damping == 1e-4
    assert [record.getMessage() for record in caplog.records] == [
        "GPTQ: Hessian of 4 inputs is not positive definite with damping 0; trying 0.0001"
    ]
    # The smallest eigenvalue is -0.0625, an eighth of the mean diagonal: damping 0.1 is too little, 1 is enough.
    assert factorize_hessian(torch.tensor([[0.5, 0.5625], [0.5625, 0.5]])).damping == pytest.approx(1.0)


def test_a_hessian_no_damping_can_save_is_refused():
    with pytest.raises(ValueError, match="not positive definite with damping 1 of its mean"):
        factorize_hessian(torch.tensor([[1.0, 3.0], [3.0, 1.0]]))


@pytest.mark.parametrize(
    ("hessian", "message"),
    [
        (torch.tensor([[1.0, float("nan")], [0.0, 1.0]]), "NaN or infinity"),
        (torch.tensor([[float("inf"), 0.0], [0.0, 1.0]]), "NaN or infinity"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
        (torch.tensor([[1.0, 0.0], [0.0, -1.0]]), "not negative"),
        (torch.tensor([[-1.0, 0.0], [0.0, 0.0]]), "not negative"),
        (torch.ones(2, 3), r"\[d_in, d_in\]"),
    ],
)
def test_hessians_that_cannot_be_are_refused(hessian, message):
    with pytest.raises(ValueError, match=message):
        factorize_hessian(hessian)


@pytest.mark.parametrize("act_order", [False, True])
def test_a_hessian_of_zeros_is_rounding_to_nearest(act_order):
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    scale = weight.abs().amax(1, keepdim=True) / 7
    codes = gptq_round(weight, scale, 4, torch.zeros(7, 7), act_order=act_order)
    assert torch.equal(codes, (weight / scale).round().clamp(-8, 7).to(torch.int8))


@pytest.mark.parametrize("damping", [-0.01, 1.5, float("nan")])
def test_damping_out_of_range_is_refused(damping):
    with pytest.raises(ValueError, match="damping"):
        factorize_hessian(torch.eye(2), damping=damping)


def test_input_that_does_not_fit_is_refused():
    weight, scale, hessian = torch.ones(3, 2), torch.ones(3, 1), torch.eye(2)

    def refused(message, weight=weight, scale=scale, bits=4, hessian=hessian, **options):
        with pytest.raises(ValueError, match=message):
            gptq_round(weight, scale, bits, hessian, **options)

    refused("9 bits", bits=9)
    refused("1 bits", bits=1)
    refused("block size", block_size=0)
    refused("NaN or infinity", weight=torch.full((3, 2), float("nan")))
    refused("NaN or infinity", weight=torch.full((3, 2), -float("inf")))
    refused("zero or not finite", scale=torch.tensor([[1.0], [0.0], [1.0]]))
    refused("zero or not finite", scale=torch.full((3, 1), float("nan")))
    refused("no groups of 3", group=3)
    refused(r"needs a scale \[3, 2\]", group=1)
    refused(r"needs zero points \[3, 1\]", zero=torch.zeros(3))
    refused("needs a scale", scale=torch.ones(3))
    refused("needs a scale", scale=scale.double())
    refused("float32 or float64", weight=weight.half())
    refused("Hessian of 2 inputs", hessian=torch.eye(3))
    refused("same dtype", weight=weight.double(), scale=scale.double(), hessian=factorize_hessian(hessian))
    refused("fixed in a HessianFactor", hessian=factorize_hessian(hessian), damping=0.1)
    refused("grew beyond", hessian=HessianFactor(torch.tensor([[1.0, 0.0], [torch.inf, 1.0]]), None, 0.0))
