"""Fitting the transforms and clipping factors of one unit to its full-precision output.

Start in closed form, search clipping on a grid, then spend gradient steps; a step sequence that does not lower the loss
is taken back, so that the result is never worse than its start.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import geoopt
import torch
from torch import Tensor, nn

from altq.calibration.descent import Descent, DivergenceError, Optimisers, finite, make_optimisers
from altq.calibration.states import spread, windows_of_step
from altq.calibration.sublayer import QuantizedSublayer, module_key
from altq.calibration.unit import Problem, Unit
from altq.experiment.recipe import Recipe
from altq.quantizers.clipping import Clip, search_factor, search_row_clip
from altq.transforms.rotation import project_orthogonal

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """Outcome of a fit: the loss on the search windows before and after the steps, and how often it started again."""

    start_loss: float
    loss: float
    num_restarts: int
    steps_kept: bool


def fit_unit(unit: Unit, problem: Problem, *, recipe: Recipe, name: str) -> Fit:
    """Fit a unit in place, from transforms and clipping factors that have started.

    ValueError, with the unit's name, where the loss is not finite even at the smallest learning rate.
    """
    windows = spread(len(problem.inputs), recipe.search_windows)
    start_loss = problem.settled(unit, windows)
    if not math.isfinite(start_loss):
        raise ValueError(f"{name}: the loss is {start_loss} before any step; look for overflow in its states")
    if not recipe.steps or not any(quantized.sublayer.name in recipe.fitted for quantized in unit.sublayers):
        return Fit(start_loss=start_loss, loss=start_loss, num_restarts=0, steps_kept=False)
    descent = descent_of(unit, problem, recipe)
    loss, num_restarts = descent.run(recipe.steps, name)
    if loss < start_loss:
        return Fit(start_loss=start_loss, loss=loss, num_restarts=num_restarts, steps_kept=True)
    log.info("%s: %d steps taken back, from a loss of %.5g after them", name, recipe.steps, loss)
    descent.go_back()
    return Fit(start_loss=start_loss, loss=start_loss, num_restarts=num_restarts, steps_kept=False)


def descent_of(unit: Unit, problem: Problem, recipe: Recipe) -> Descent[float]:
    """The recipe's steps on the halves of a unit that it fits; their outcome is the loss on the search windows.

    Each step looks at the next windows, and follows the gradient of the logarithm of their loss, so that the rates mean
    the same at every unit. DivergenceError, within the descent, for a loss that is not finite.
    """
    fitted = nn.ModuleList(quantized for quantized in unit.sublayers if quantized.sublayer.name in recipe.fitted)

    def optimisers(reduction: float) -> Optimisers:
        return Optimisers(make_optimisers(fitted, recipe, reduction), [])

    def relative_loss(step: int) -> Tensor:
        unit.prepare()
        loss = problem.evaluate(unit, windows_of_step(step, len(problem.inputs), recipe.windows_per_step))
        return finite(loss, step) / loss.detach().clamp_min(torch.finfo(loss.dtype).tiny)

    def outcome() -> float:
        settle(unit)
        loss = problem.settled(unit, spread(len(problem.inputs), recipe.search_windows))
        if not math.isfinite(loss):
            raise DivergenceError(f"the loss became {loss}")
        return loss

    return Descent(unit, optimisers=optimisers, objective=relative_loss, outcome=outcome)


def settle(unit: Unit) -> None:
    """Project rotations onto their manifold, which steps leave by rounding; DivergenceError for a degenerate transform."""
    for parameter in unit.parameters():
        if isinstance(parameter, geoopt.ManifoldParameter):
            project_orthogonal(parameter)
    for quantized in unit.sublayers:
        for site, transform in quantized.transforms.items():
            ok, reason = transform.check()
            if not ok:
                raise DivergenceError(f"the transform at {site} degenerated: {reason}")


def start_clips(unit: Unit, problem: Problem, *, observed: Sequence[dict[str, Tensor]], recipe: Recipe) -> None:
    """Initialise clipping factors: the recipe's constant, or the result of a grid search.

    observed: the moments of each sublayer of the unit, see `altq.calibration.states.observe`.
    """
    for clip in unit.clips():
        clip.set(recipe.initial_clip)
    if recipe.clip_search:
        windows = spread(len(problem.inputs), recipe.search_windows)
        search_clips(unit, problem, observed=observed, windows=windows)


@torch.no_grad()
def search_clips(unit: Unit, problem: Problem, *, observed: Sequence[dict[str, Tensor]], windows: Tensor) -> None:
    """Search clipping factors: weights row by row from second moments, then inputs and cache by the unit's error.

    windows: indices of those that the error is of.
    """
    for quantized, moments in zip(unit.sublayers, observed, strict=True):
        if not quantized.quantizers.weights.is_identity:
            _search_weight_clips(quantized, moments)
    unit.prepare()
    for quantized in unit.sublayers:
        for clips in (quantized.activation_clip, quantized.cache_clip):
            for site, clip in clips.items():
                quantizer = quantized.quantizers.of_site(site)
                if not quantizer.is_identity:
                    loss = _loss_of_clip(clip, unit=unit, problem=problem, windows=windows)
                    clip.set(search_factor(loss, start=_usual_clip(quantizer.bits)))


def _search_weight_clips(quantized: QuantizedSublayer, moments: dict[str, Tensor]) -> None:
    for site, names in quantized.sites.items():
        moment = quantized.transformed_moment(site, moments[f"{site}.moment"][0])
        for name in names:
            weight = quantized.folded_weight(name).contiguous()
            best = search_row_clip(weight, moment, quantized.quantizers.weights)
            quantized.weight_clip[module_key(name)].set(best)


def _loss_of_clip(clip: Clip, *, unit: Unit, problem: Problem, windows: Tensor) -> Callable[[float], float]:
    def loss(factor: float) -> float:
        clip.set(factor)
        return problem.value(unit, windows)

    return loss


def _usual_clip(bits: int) -> float:
    """Where a search begins; few bits clip more."""
    return {2: 0.5, 3: 0.6, 4: 0.8}.get(bits, 0.95)
