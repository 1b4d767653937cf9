"""The one loop of descent: what diverges goes back to its start and takes smaller steps, or fails with a name."""

import logging
import math

import pytest
import torch
from torch import nn

from altq.calibration.descent import Descent, DivergenceError, Optimisers, finite
from altq.transforms.transform import inverse_of


class Point(nn.Module):
    """A point on a line, which descends x^2 from 1."""

    def __init__(self):
        super().__init__()
        self.x = nn.Parameter(torch.ones(()))
        self.rates = []

    def optimisers(self, reduction):
        self.rates.append(reduction)
        return Optimisers([torch.optim.SGD([self.x], lr=0.1 * reduction)], [])

    def descent(self, objective=None, outcome=None):
        return Descent(
            self,
            optimisers=self.optimisers,
            objective=objective or (lambda step: self.x.square()),
            outcome=outcome or self.x.item,
        )


def test_steps_follow_the_gradient_at_rates_that_fall_as_a_cosine():
    point, x = Point(), 1.0
    found, num_restarts = point.descent().run(4, "a point")
    for step in range(4):
        x -= 0.1 * (1 + math.cos(math.pi * step / 4)) / 2 * 2 * x
    assert found == pytest.approx(x) and num_restarts == 0 and point.rates == [1.0]


def test_constant_rates_stay():
    point, other = Point(), nn.Parameter(torch.ones(()))
    descent = Descent(
        point,
        optimisers=lambda reduction: Optimisers([], [torch.optim.SGD([other], lr=0.1 * reduction)]),
        objective=lambda step: other.square(),
        outcome=other.item,
    )
    assert descent.run(4, "a point")[0] == pytest.approx(0.8**4)


def diverging(point, times, error):
    """The objective of a point that fails so many times, at the second step."""
    failures = []

    def objective(step):
        if step == 1 and len(failures) < times:
            failures.append(step)
            return error()
        return point.x.square()

    return objective


def singular():
    return torch.linalg.inv(torch.zeros(2, 2)).sum()


def nan():
    return finite(torch.tensor(math.nan, requires_grad=True), 1)


def singular_in_a_transform():
    return inverse_of(torch.zeros(2, 2, requires_grad=True)).sum()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (singular, "a factor is singular at step 1"),
        (singular_in_a_transform, "a factor is singular at step 1 (a factor of 2 channels cannot be inverted)"),
        (nan, "the loss is nan"),
    ],
)
def test_what_diverges_begins_again_from_its_start_with_smaller_steps(caplog, error, reason):
    point, expected = Point(), Point()
    with caplog.at_level(logging.WARNING, logger="altq.calibration.descent"):
        found, num_restarts = point.descent(diverging(point, 1, error)).run(3, "a point")
    assert num_restarts == 1 and point.rates == [1.0, 0.1]
    expected.descent().take_steps(3, 0.1)
    assert found == expected.x.item()
    [message] = caplog.messages
    assert message.startswith(f"a point: {reason}") and message.endswith(
        "with 1 of the learning rate; back to the start"
    )


def test_an_outcome_that_cannot_be_used_is_a_divergence():
    point, outcomes = Point(), [DivergenceError("it came to nothing"), 7]

    def outcome():
        found = outcomes.pop(0)
        if isinstance(found, DivergenceError):
            raise found
        return found

    assert point.descent(outcome=outcome).run(2, "a point") == (7, 1)


@pytest.mark.parametrize("error", [singular, nan])
def test_what_always_diverges_is_named_and_is_where_it_began(error):
    point = Point()
    with pytest.raises(ValueError, match=r"a point: .* at step 1.*, even at 0\.01 of the learning rate"):
        point.descent(diverging(point, 3, error)).run(3, "a point")
    assert point.rates == [1.0, 0.1, 0.01] and point.x.item() == 1.0
