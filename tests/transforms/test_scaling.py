import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from altq.transforms.scaling import Scaling, smooth_scale


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_smooth_scale(inputs, weights, alpha):
    """SmoothQuant's Eq. 4 channel by channel in Python's floats: X is divided by its s, so ours is 1 / s."""
    scales = []
    for channel in range(inputs.shape[1]):
        largest_x = max(abs(value) for value in inputs[:, channel].tolist())
        largest_w = max(abs(weight[row, channel].item()) for weight in weights for row in range(len(weight)))
        used = largest_x > 0 and largest_w > 0
        scales.append(1 / (largest_x**alpha / largest_w ** (1 - alpha)) if used else 1.0)
    return torch.tensor(scales, dtype=torch.float64)


def peaks(inputs, weights):
    return inputs.abs().amax(0), torch.cat(weights).abs().amax(0)


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 12),
    alpha=st.one_of(st.sampled_from([0.0, 0.5, 0.85, 1.0]), st.floats(0, 1)),
    seed=st.integers(0, 2**31),
    unused_inputs=st.sets(st.integers(0, 11)),
    unused_weights=st.sets(st.integers(0, 11)),
)
def test_smooth_scales_equal_a_loop_over_channels(size, alpha, seed, unused_inputs, unused_weights):
    inputs = normal(7, size, seed=seed) * normal(size, seed=seed + 1).mul(2).exp()
    weights = [normal(rows, size, seed=seed + 2 + rows) for rows in (3, 5)]
    inputs[:, [channel for channel in unused_inputs if channel < size]] = 0
    for weight in weights:
        weight[:, [channel for channel in unused_weights if channel < size]] = 0
    found = smooth_scale(*peaks(inputs, weights), alpha)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, slow_smooth_scale(inputs, weights, alpha), rtol=1e-12, atol=0)
    unused = [channel for channel in unused_inputs | unused_weights if channel < size]
    assert (found[unused] == 1).all()


def test_alpha_moves_all_of_the_peaks_to_one_side():
    peak_x, peak_w = torch.tensor([0.5, 4.0, 100.0]), torch.tensor([2.0, 0.25, 3.0])
    flat_inputs, flat_weights = (smooth_scale(peak_x, peak_w, alpha) for alpha in (1, 0))
    torch.testing.assert_close(peak_x * flat_inputs, torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(peak_w / flat_weights, torch.ones(3, dtype=torch.float64))
    # Half way, both sides have the same peaks.
    even = smooth_scale(peak_x, peak_w, 0.5)
    torch.testing.assert_close(peak_x * even, peak_w / even)
    assert even.tolist() == pytest.approx([2.0, 0.25, 3**0.5 / 10])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_channel_that_is_never_used_keeps_one(alpha):
    peak_x, peak_w = torch.tensor([0.0, 3.0, 0.0, 3.0]), torch.tensor([5.0, 0.0, 0.0, 5.0])
    scale = smooth_scale(peak_x, peak_w, alpha)
    assert scale[:3].tolist() == [1, 1, 1] and scale[3] != 1
    assert Scaling(scale).check() == (True, "ok")


def test_float32_peaks_are_taken_to_powers_in_float64():
    peak_x, peak_w = normal(50).abs().float(), normal(50, seed=1).abs().float()
    torch.testing.assert_close(
        smooth_scale(peak_x, peak_w, 0.3), smooth_scale(peak_x.double(), peak_w.double(), 0.3), rtol=0, atol=0
    )
