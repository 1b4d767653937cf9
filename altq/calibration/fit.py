"""Fitting the transforms and clipping factors of one unit to its full-precision output.

Start in closed form, search clipping on a grid, then spend gradient steps; a step sequence that does not lower the loss
is taken back, so that the result is never worse than its start.
"""

import copy
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import geoopt
import torch
from torch import Tensor, nn

from altq.calibration.states import spread, windows_of_step
from altq.calibration.sublayer import QuantizedSublayer, module_key
from altq.calibration.unit import Problem, Unit
from altq.experiment.recipe import Recipe
from altq.quantizers.clipping import search_factor, search_row_clip
from altq.transforms.rotation import project_orthogonal

log = logging.getLogger(__name__)

RATE_REDUCTIONS = (1.0, 0.1, 0.01)
"""A diverged fit starts again from its start with a smaller learning rate, so often and then fails."""


@dataclass(frozen=True)
class Fit:
    """What a fit reached: the loss on the search windows before and after the steps, and how often it started again."""

    start_loss: float
    loss: float
    num_restarts: int
    steps_kept: bool


def fit_unit(unit: Unit, problem: Problem, recipe: Recipe, name: str) -> Fit:
    """Fit in place, from transforms and clipping factors that have started.

    ValueError where the loss is not finite even at the smallest learning rate.
    """
    windows = spread(len(problem.inputs), recipe.search_windows)
    start_loss = problem.settled(unit, windows)
    if not math.isfinite(start_loss):
        raise ValueError(f"{name}: the loss is {start_loss} before any step; look for overflow in its states")
    fitted = [quantized for quantized in unit.sublayers if quantized.sublayer.name in recipe.fitted]
    if not recipe.steps or not fitted:
        return Fit(start_loss, start_loss, 0, False)
    start = copy.deepcopy(unit.state_dict())
    for restarts, reduction in enumerate(RATE_REDUCTIONS):
        problem_found = _take_steps(unit, fitted, problem, recipe, reduction)
        if problem_found is None:
            loss = problem.settled(unit, windows)
            if math.isfinite(loss):
                break
            problem_found = f"the loss became {loss}"
        log.warning("%s: %s with %g of the learning rate; back to the start", name, problem_found, reduction)
        unit.load_state_dict(start)
    else:
        raise ValueError(f"{name}: {problem_found}, even at {RATE_REDUCTIONS[-1]} of the learning rate")
    if loss < start_loss:
        return Fit(start_loss, loss, restarts, True)
    log.info("%s: %d steps taken back, from a loss of %.5g after them", name, recipe.steps, loss)
    unit.load_state_dict(start)
    return Fit(start_loss, start_loss, restarts, False)


def start_clips(unit: Unit, problem: Problem, observed: Sequence[dict[str, Tensor]], recipe: Recipe) -> None:
    """The clipping factors before any step: the recipe's, or those that its search finds.

    observed: what `observe` gave for each sublayer of the unit.
    """
    for clip in unit.clips():
        clip.set(recipe.initial_clip)
    if recipe.clip_search:
        search_clips(unit, problem, observed, spread(len(problem.inputs), recipe.search_windows))


@torch.no_grad()
def search_clips(unit: Unit, problem: Problem, observed: Sequence[dict[str, Tensor]], windows: Tensor) -> None:
    """Clipping by search: weights row by row from second moments, then inputs and cache by the unit's error."""
    for quantized, seen in zip(unit.sublayers, observed, strict=True):
        if not quantized.quantizers.weights.is_identity:
            _search_weight_clips(quantized, seen)
    unit.prepare()
    for quantized in unit.sublayers:
        for clips in (quantized.activation_clip, quantized.cache_clip):
            for site, clip in clips.items():
                quantizer = quantized.quantizers.of_site(site)
                if not quantizer.is_identity:
                    loss = _loss_with(clip.set, unit, problem, windows)
                    clip.set(search_factor(loss, start=_usual_clip(quantizer.bits)))


def _search_weight_clips(quantized: QuantizedSublayer, observed: dict[str, Tensor]) -> None:
    for site, names in quantized.sites.items():
        moment = quantized.transformed_moment(site, observed[f"{site}.moment"][0])
        for name in names:
            weight = quantized.folded_weight(name).contiguous()
            best = search_row_clip(weight, moment, quantized.quantizers.weights)
            quantized.weight_clip[module_key(name)].set(best)


def _loss_with(
    change: Callable[[float], None], unit: Unit, problem: Problem, windows: Tensor
) -> Callable[[float], float]:
    def loss(value: float) -> float:
        change(value)
        return problem.evaluate(unit, windows).item()

    return loss


def _usual_clip(bits: int) -> float:
    """Where a search begins; few bits clip more."""
    return {2: 0.5, 3: 0.6, 4: 0.8}.get(bits, 0.95)


def _take_steps(
    unit: Unit, fitted: Sequence[nn.Module], problem: Problem, recipe: Recipe, reduction: float
) -> str | None:
    """Run the recipe's steps on the `fitted` sublayers of a unit; what went wrong, or None."""
    optimisers = make_optimisers(nn.ModuleList(fitted), recipe, reduction)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, recipe.steps) for o in optimisers]
    for step in range(recipe.steps):
        try:
            unit.prepare()
        except torch.linalg.LinAlgError as error:
            return f"a factor is singular at step {step} ({error})"
        loss = problem.evaluate(unit, windows_of_step(step, len(problem.inputs), recipe.windows_per_step))
        if not torch.isfinite(loss):
            return f"the loss is {loss.item()} at step {step}"
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        (loss / loss.detach().clamp_min(torch.finfo(loss.dtype).tiny)).backward()
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()
    for parameter in unit.parameters():
        if isinstance(parameter, geoopt.ManifoldParameter):
            project_orthogonal(parameter)
    for quantized in unit.sublayers:
        for site, transform in quantized.transforms.items():
            ok, reason = transform.check()
            if not ok:
                return f"the transform at {site} degenerated: {reason}"
    return None


def make_optimisers(fitted: nn.Module, recipe: Recipe, reduction: float) -> list[torch.optim.Optimizer]:
    """AdamW for free parameters, Riemannian Adam for those on a manifold; clipping factors get their own rate."""
    rate = recipe.learning_rate * reduction
    clips = [p for name, p in fitted.named_parameters() if "clip" in name]
    transforms = [p for name, p in fitted.named_parameters() if "clip" not in name]
    rotations = [p for p in transforms if isinstance(p, geoopt.ManifoldParameter)]
    free = [p for p in transforms if not isinstance(p, geoopt.ManifoldParameter)]
    groups = [{"params": free}, {"params": clips, "lr": rate * recipe.clip_rate_factor}]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=rate, betas=recipe.betas, weight_decay=recipe.weight_decay)
    ]
    if rotations:
        optimisers.append(geoopt.optim.RiemannianAdam(rotations, lr=rate, betas=recipe.betas))
    return optimisers
