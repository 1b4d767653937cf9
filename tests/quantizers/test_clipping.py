import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from altq.quantizers.clipping import LARGEST, NUM_FACTORS, SMALLEST, Clip, search_factor, search_row_clip
from altq.quantizers.quantizer import Quantizer
from altq.quantizers.uniform import quantize, symmetric_scale


def test_a_clip_starts_at_no_clipping_and_keeps_what_is_set():
    clip = Clip(3, 1)
    assert clip().shape == (3, 1)
    torch.testing.assert_close(clip(), torch.full((3, 1), LARGEST), rtol=0, atol=1e-6)
    factors = torch.tensor([[0.3], [0.75], [0.95]])
    clip.set(factors)
    torch.testing.assert_close(clip(), factors)
    clip.set(0.5)
    torch.testing.assert_close(clip(), torch.full((3, 1), 0.5))
    clip.set(1.0)  # the logit of one is infinite
    torch.testing.assert_close(clip(), torch.full((3, 1), LARGEST))
    assert clip.logit.requires_grad and torch.isfinite(clip.logit).all()


@settings(max_examples=20, deadline=None)
@given(bits=st.sampled_from([2, 3, 4, 8]), signed=st.booleans(), seed=st.integers(0, 2**31))
def test_row_clips_equal_brute_force(bits, signed, seed):
    generator = torch.Generator().manual_seed(seed)
    # Heavy tails, so that the best factors differ from row to row; float64 has no reduced products.
    weight = torch.randn(6, 24, generator=generator, dtype=torch.float64) ** 3
    rows = torch.randn(40, 24, generator=generator, dtype=torch.float64)
    moment = rows.T @ rows

    def error(row, factor):
        scale = symmetric_scale(row, bits, factor, signed=signed)
        difference = quantize(row, scale, bits) * scale - row
        return (difference @ moment @ difference.T).item()

    best = search_row_clip(weight, moment, Quantizer(bits, signed=signed))
    assert best.shape == (6, 1)
    grid = [1.0 - 0.05 * i for i in range(15)]
    for row, factor in zip(weight.split(1), best, strict=True):
        errors = [error(row, each) for each in grid]
        assert error(row, factor.item()) <= min(errors) * (1 + 1e-4)
        assert min(abs(factor.item() - each) for each in grid) < 1e-6


@settings(max_examples=20, deadline=None)
@given(
    bits=st.sampled_from([2, 3, 4]), signed=st.booleans(), group=st.sampled_from([5, 8, 24]), seed=st.integers(0, 2**31)
)
def test_clips_of_groups_are_those_of_the_groups_by_themselves(bits, signed, group, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 24, generator=generator, dtype=torch.float64) ** 3
    rows = torch.randn(40, 24, generator=generator, dtype=torch.float64)
    moment = rows.T @ rows
    best = search_row_clip(weight, moment, Quantizer(bits, signed=signed, group=group))
    assert best.shape == (6, -(-24 // group), 1)
    for index, channels in enumerate(torch.arange(24).split(group)):
        part, block, quantizer = weight[:, channels], moment[channels][:, channels], Quantizer(bits, signed=signed)
        alone = search_row_clip(part, block, quantizer)
        # Two factors may be equally good: which one is found then depends on the last bit of an error.
        reached, possible = (
            (((difference := quantizer.fake(part, clip) - part) @ block) * difference).sum(-1)
            for clip in (best[:, index], alone)
        )
        torch.testing.assert_close(reached, possible, rtol=1e-12, atol=0)


@pytest.mark.parametrize("group", [None, 8])
def test_with_a_zero_point_both_ends_are_searched(group):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(20, 24, generator=generator, dtype=torch.float64).abs() ** 3 - 0.4
    rows = torch.randn(40, 24, generator=generator, dtype=torch.float64)
    moment, quantizer = rows.T @ rows, Quantizer(3, asymmetric=True, group=group)

    def errors(clip):
        difference = (quantizer.fake(weight, clip) - weight).split(group or 24, dim=1)
        blocks = [moment[c][:, c] for c in torch.arange(24).split(group or 24)]
        return torch.stack([((d @ block) * d).sum(-1) for d, block in zip(difference, blocks, strict=True)], dim=1)

    best = search_row_clip(weight, moment, quantizer)
    assert best.shape == ((20, 2) if group is None else (20, 3, 2))
    assert (best[..., 0] != best[..., 1]).any()
    found = errors(best)
    for factor in torch.linspace(1.0, SMALLEST, NUM_FACTORS).tolist():
        # No common factor is better, nor is any other one of the upper end, the last that was searched.
        assert (found <= errors(torch.full_like(best, factor)) * (1 + 1e-9)).all()
        upper = best.clone()
        upper[..., 1] = factor
        assert (found <= errors(upper) * (1 + 1e-9)).all()


def test_the_grid_is_what_its_description_says():
    grid = torch.linspace(1.0, SMALLEST, NUM_FACTORS)
    torch.testing.assert_close(grid.diff(), torch.full((14,), -0.05))


def test_row_clips_do_not_depend_on_the_other_rows():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 16, generator=generator, dtype=torch.float64) ** 3
    best = search_row_clip(weight, torch.eye(16, dtype=torch.float64), Quantizer(3, signed=True))
    assert len(best.unique()) > 1
    for row, factor in zip(weight.split(1), best.split(1), strict=True):
        assert torch.equal(search_row_clip(row, torch.eye(16, dtype=torch.float64), Quantizer(3, signed=True)), factor)


def test_a_row_of_zeros_keeps_its_full_range():
    best = search_row_clip(torch.zeros(2, 4), torch.eye(4), Quantizer(4, signed=False))
    assert best.tolist() == [[1.0], [1.0]]


@settings(max_examples=100, deadline=None)
@given(
    lowest=st.floats(0.2, 1.1),
    start=st.sampled_from([0.5, 0.6, 0.8, 0.95]),
    left=st.floats(0.1, 10),
    right=st.floats(0.1, 10),
)
def test_search_finds_the_best_point_of_its_grid_on_a_curve_with_one_valley(lowest, start, left, right):
    asked = []

    def loss(factor):
        asked.append(factor)
        return (left if factor < lowest else right) * (factor - lowest) ** 2

    found = search_factor(loss, start)
    grid = [round(0.3 + 0.05 * i, 2) for i in range(15)]
    assert loss(found) <= min(map(loss, grid)) + 1e-12
    assert all(SMALLEST <= factor <= 1 for factor in asked)
    assert len(asked) - len(grid) - 1 <= 14


@pytest.mark.parametrize("start", [0.5, 0.95])
def test_search_stays_where_nothing_is_better(start):
    assert search_factor(lambda factor: 1.0, start) == start
    assert search_factor(lambda factor: float("nan"), start) == start
