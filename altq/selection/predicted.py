"""Signal-to-quantization-noise ratio in closed form from second moments (CAT, arXiv 2603.04359): no training.

With x' = x T of covariance Sx' and weights W T^-T of covariance Sw', a symmetric quantizer of 2^b - 2 steps over the
range of a token (of an output channel) gives

    SQNR_x = 3 (2^b_x - 2)^2 C(x') A        concentration C(x') = E|x'|^2 / (d E max x'^2)
    SQNR_w = 3 (2^b_w - 2)^2 C(w') A        alignment     A     = d tr(Sx Sw) / (tr Sx' tr Sw')
    1 / SQNR = 1 / SQNR_x + 1 / SQNR_w

A transform changes concentration and alignment; a rotation changes concentration alone. The expected maximum is that of
independent Gaussians with the variances on the diagonal. Second moments are all that is known, so outliers that no
Gaussian has are not seen, and no clipping is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from altq.calibration.by_unit import start_sublayers
from altq.calibration.start import silent_sites
from altq.calibration.states import States
from altq.experiment.kinds import HALVES, sublayer_name
from altq.experiment.recipe import Recipe
from altq.experiment.setting import Setting
from altq.models.skeleton import Skeleton
from altq.runtime.progress import progress
from altq.transforms.transform import Transform

GRID_POINTS = 512
GRID_END = 8.0
"""The expected maximum is integrated on so many points up to so many of the largest standard deviations."""


@dataclass(frozen=True)
class Prediction:
    """concentration_x, concentration_w: in (0, 1]; alignment: in (0, d]; sqnr: in decibels."""

    concentration_x: float
    concentration_w: float
    alignment: float
    sqnr: float


def expected_squared_maximum(variances: Tensor) -> Tensor:
    """E max_i x_i^2 of independent Gaussians: integral of 1 - prod erf(t / (sigma_i sqrt 2)) over t^2; [d] -> []."""
    sigma = variances.double().clamp_min(torch.finfo(torch.float64).tiny).sqrt()
    t = torch.linspace(0, GRID_END * sigma.max().item(), GRID_POINTS, dtype=torch.float64)
    beyond = 1 - torch.erf(t[:, None] / (sigma * math.sqrt(2))).prod(1)
    return torch.trapezoid(2 * t * beyond, t)


def concentration(moment: Tensor) -> float:
    """E|x|^2 / (d E max x^2) from a second moment [d, d]: 1 where every channel is always at the range's end."""
    variances = moment.diagonal()
    return (variances.mean() / expected_squared_maximum(variances)).item()


def predict(transform: Transform, moment_x: Tensor, moment_w: Tensor, setting: Setting) -> Prediction:
    """What a transform makes of moments [d, d] of activations and of the weights that read them."""
    transform = transform.double()
    moment_x, moment_w = moment_x.double(), moment_w.double()
    with torch.no_grad():
        seen = transform.apply_to(transform.apply_to(moment_x).T)
        read = transform.fold(transform.fold(moment_w).T)
    signal = (moment_x * moment_w).sum()  # tr(Sx Sw), both symmetric
    alignment = (len(seen) * signal / (seen.trace() * read.trace())).item()
    concentrations = concentration(seen), concentration(read)
    noise = sum(
        1 / (3 * (2**bits - 2) ** 2 * c * alignment)
        for bits, c in zip((setting.activations, setting.weights), concentrations, strict=True)
    )
    return Prediction(*concentrations, alignment, -10 * math.log10(noise))


def predict_model(
    model: str | Path, states: str | Path, setting: Setting, seed: int, candidates: Sequence[str], recipe: Recipe
) -> list[dict[str, Prediction]]:
    """{kind: prediction} of each sublayer at its selected site, for the closed-form start of each kind.

    The start is `balance`, whatever the recipe says: random factors are the same for both kinds, and say nothing.
    The moments are those of the states: activations weighted by their sensitivity, which stands for W^T W. ValueError
    names a sublayer whose selected site has no signal: nothing can be predicted there.
    """
    skeleton, known = Skeleton(model), States(states)
    recipe = recipe.model_copy(update={"start": "balance"})
    predictions = []
    for s in progress(range(2 * skeleton.num_blocks), f"predicting at {setting}"):
        observed = known.observed(s)
        site = skeleton.family.half(HALVES[s % 2]).selected_site
        if site in silent_sites(observed):
            raise ValueError(
                f"{sublayer_name(s)}: no signal at {site}, where no kind has less noise than another; choose another "
                "policy than `predicted` for this model"
            )
        of_kind = {}
        for kind in candidates:
            (quantized,) = start_sublayers(skeleton, [s], [observed], setting, kind, seed, recipe)
            moments = observed[f"{site}.moment"][0], observed[f"{site}.sensitivity"][0]
            of_kind[kind] = predict(quantized.transforms[site], *moments, setting)
        predictions.append(of_kind)
    return predictions
