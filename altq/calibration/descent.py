"""Descent: an optimiser's steps down an objective, begun again with smaller ones where they diverge."""

import copy
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import geoopt
import torch
from torch import Tensor, nn

from altq.calibration.unit import BATCH_SIZE
from altq.experiment.recipe import Recipe
from altq.runtime.looks import look, looks_put_off

log = logging.getLogger(__name__)

RATE_REDUCTIONS = (1.0, 0.1, 0.01)
"""A descent that diverges begins again from its start at the next of these shares of the rates, and then fails."""

Outcome = TypeVar("Outcome")


class DivergenceError(ArithmeticError):
    """A loss, factor or outcome of a descent that cannot be used; the message is a clause that says which."""


class Optimisers(NamedTuple):
    """Optimisers whose rates fall over the steps as a cosine, and those whose rates stay."""

    falling: list[torch.optim.Optimizer]
    constant: list[torch.optim.Optimizer]


class Descent(Generic[Outcome]):
    """Steps on a module, whose state goes back to the start where they diverge.

    optimisers: share of the rates -> fresh optimisers. objective: step -> the scalar whose gradient is followed.
    outcome: called after the last step. The last two may raise DivergenceError.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        optimisers: Callable[[float], Optimisers],
        objective: Callable[[int], Tensor],
        outcome: Callable[[], Outcome],
    ) -> None:
        self.module, self.optimisers, self.objective, self.outcome = module, optimisers, objective, outcome
        self._start = copy.deepcopy(module.state_dict())

    def go_back(self) -> None:
        """Put the module where it was before any step."""
        self.module.load_state_dict(self._start)

    def run(self, num_steps: int, name: str) -> tuple[Outcome, int]:
        """Take the steps: the outcome, and how often they began again.

        ValueError where they diverge at the smallest rates, too; it names what is trained by `name`.
        """
        for num_restarts, reduction in enumerate(RATE_REDUCTIONS):
            try:
                self.take_steps(num_steps, reduction)
                return self.outcome(), num_restarts
            except DivergenceError as error:
                reason = str(error)
                log.warning("%s: %s with %g of the learning rate; back to the start", name, reason, reduction)
                self.go_back()
        raise ValueError(f"{name}: {reason}, even at {RATE_REDUCTIONS[-1]} of the learning rate")

    def take_steps(self, num_steps: int, reduction: float = 1.0) -> None:
        """Take the steps once, at a share of the rates; DivergenceError where the objective or a factor is not usable."""
        falling, constant = self.optimisers(reduction)
        schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, num_steps) for optimiser in falling]
        for step in range(num_steps):
            BATCH_SIZE.fit(partial(self._differentiate, step, (*falling, *constant)), f"step {step}")
            for optimiser in (*falling, *constant):
                optimiser.step()
            for schedule in schedules:
                schedule.step()

    def _differentiate(self, step: int, optimisers: Sequence[torch.optim.Optimizer]) -> None:
        """Give the parameters the gradients of a step, and no others."""
        try:
            with looks_put_off():
                objective = self.objective(step)
                for optimiser in optimisers:
                    optimiser.zero_grad(set_to_none=True)
                objective.backward()
        except torch.linalg.LinAlgError as error:
            raise DivergenceError(f"a factor is singular at step {step} ({error})") from error


def finite(loss: Tensor, step: int) -> Tensor:
    """A loss [] as it is; DivergenceError, at the end of a descent's step within one, where it is not finite."""

    def judge(values: list[float]) -> None:
        if not math.isfinite(values[0]):
            raise DivergenceError(f"the loss is {values[0]} at step {step}")

    look(loss, judge)
    return loss


def make_optimisers(fitted: nn.Module, recipe: Recipe, reduction: float) -> list[torch.optim.Optimizer]:
    """AdamW for free parameters, Riemannian Adam for those on a manifold; clipping factors get their own rate."""
    rate = recipe.learning_rate * reduction
    clips = [p for name, p in fitted.named_parameters() if "clip" in name]
    transforms = [p for name, p in fitted.named_parameters() if "clip" not in name]
    rotations = [p for p in transforms if isinstance(p, geoopt.ManifoldParameter)]
    free = [p for p in transforms if not isinstance(p, geoopt.ManifoldParameter)]
    groups: list[dict[str, Any]] = [{"params": free}, {"params": clips, "lr": rate * recipe.clip_rate_factor}]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=rate, betas=recipe.betas, weight_decay=recipe.weight_decay)
    ]
    if rotations:
        optimisers.append(geoopt.optim.RiemannianAdam(rotations, lr=rate, betas=recipe.betas))
    return optimisers
