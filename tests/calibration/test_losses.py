"""The losses against torch's own, by hand, and where they must be zero."""

import math

import pytest
import torch

from altq.calibration.losses import cross_entropy, kl_top


def normal(*shape, seed=0):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("k", [7, 8, 1000])
def test_over_the_whole_vocabulary_it_is_the_divergence_of_full_from_quantized(k):
    logits, full = normal(5, 7, seed=1), normal(5, 7, seed=2)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=full), torch.distributions.Categorical(logits=logits)
    ).sum()
    torch.testing.assert_close(kl_top(logits, full, k), expected, rtol=1e-12, atol=0)
    # It is not symmetric: the other way round it is another number.
    assert not torch.isclose(kl_top(full, logits, k), expected, rtol=1e-2)


def test_the_likeliest_tokens_by_hand():
    # Full precision: 1/2, 1/4, 1/8, 1/8; quantized: 1/4, 1/2, 1/8, 1/8. The two likeliest give 1/2 ln 2 - 1/4 ln 2.
    full = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64).log() + 3.0  # a constant changes nothing
    logits = torch.tensor([[0.25, 0.5, 0.125, 0.125]], dtype=torch.float64).log() - 1.0
    assert kl_top(logits, full, 1).item() == pytest.approx(0.5 * math.log(2), rel=1e-12)
    assert kl_top(logits, full, 2).item() == pytest.approx(0.25 * math.log(2), rel=1e-12)
    assert kl_top(logits, full, 4).item() == pytest.approx(0.25 * math.log(2), rel=1e-12)


def test_the_tokens_are_those_of_the_full_precision_model_and_the_probabilities_of_the_whole_vocabulary():
    logits, full = normal(6, 20, seed=3), normal(6, 20, seed=4)
    expected = 0.0
    for row in range(6):
        p, q = full[row].softmax(0), logits[row].softmax(0)
        for token in sorted(range(20), key=lambda t: -p[t].item())[:3]:
            expected += p[token] * (p[token] / q[token]).log()
    torch.testing.assert_close(kl_top(logits, full, 3), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("k", [1, 3, 20])
def test_equal_logits_have_no_divergence(k):
    full = normal(4, 20)
    assert kl_top(full + 2.5, full, k).item() == pytest.approx(0, abs=1e-14)
    assert kl_top(full.roll(1, 1), full, 20).item() > 0.1


@pytest.mark.parametrize("k", [1, 3, 20])
def test_its_gradient_is_right(k):
    full = normal(3, 20, seed=1)
    assert torch.autograd.gradcheck(lambda logits: kl_top(logits, full, k), normal(3, 20).requires_grad_())


def test_sums_of_tokens_are_sums_of_pieces():
    logits, full, targets = normal(10, 8, seed=1), normal(10, 8, seed=2), torch.arange(10) % 8
    for loss, other in ((cross_entropy, targets), (lambda a, b: kl_top(a, b, 3), full)):
        pieces = sum(loss(logits[rows], other[rows]) for rows in torch.arange(10).split(3))
        torch.testing.assert_close(loss(logits, other), pieces, rtol=1e-12, atol=0)


def test_cross_entropy_by_hand():
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], dtype=torch.float64).log() + 5.0
    assert cross_entropy(logits, torch.tensor([1, 2])).item() == pytest.approx(math.log(4) - math.log(0.8), rel=1e-12)


def test_nan_is_not_hidden():
    logits, full = normal(3, 8, seed=1), normal(3, 8, seed=2)
    spoiled = logits.clone()
    spoiled[1, 3] = torch.nan
    assert kl_top(spoiled, full, 2).isnan() and cross_entropy(spoiled, torch.tensor([0, 0, 0])).isnan()
