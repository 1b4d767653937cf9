"""The loss of refinement, against sums by hand and by numpy."""

import math

import numpy as np
import pytest
import torch

from altq.refinement.training import kl_divergence


def test_divergence_by_hand():
    full, logits = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]])
    # p = (1/2, 1/2), q = (3/4, 1/4): 1/2 ln(2/3) + 1/2 ln 2 = 1/2 ln(4/3)
    assert kl_divergence(logits, full).item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-6)


def test_divergence_is_summed_over_tokens_and_zero_for_itself():
    generator = np.random.default_rng(0)
    full, logits = generator.normal(size=(2, 5, 7)) * 3
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (full, logits))
    found = kl_divergence(torch.from_numpy(logits), torch.from_numpy(full)).item()
    assert found == pytest.approx((p * np.log(p / q)).sum(), rel=1e-12)
    assert kl_divergence(torch.from_numpy(full), torch.from_numpy(full) + 2.5).item() == pytest.approx(0, abs=1e-12)
