"""Signal-to-quantization-noise ratio in closed form from second moments (CAT, arXiv 2603.04359): no training.

With x' = x T of covariance Sx' and weights W T^-T of covariance Sw', a symmetric quantizer of 2^b - 2 steps over the
range of a token (of an output channel, of a group of it) gives

    SQNR_x = 3 (2^b_x - 2)^2 C(x') A        concentration C(x') = E|x'|^2 / (d E max x'^2)
    SQNR_w = 3 (2^b_w - 2)^2 C(w') A        alignment     A     = d tr(Sx Sw) / (tr Sx' tr Sw')
    1 / SQNR = 1 / SQNR_x + 1 / SQNR_w

A transform changes concentration and alignment; a rotation changes concentration alone. The expected maximum is that of
independent Gaussians with the variances on the diagonal. Nothing but second moments is read, so
neither outliers that no Gaussian has nor clipping count.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from altq.calibration.by_unit import start_sublayers
from altq.calibration.start import silent_sites
from altq.calibration.subject import Subject
from altq.experiment.kinds import HALVES, sublayer_name
from altq.experiment.setting import Setting
from altq.runtime.progress import progress
from altq.selection.candidates import Candidates
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
    t = torch.linspace(0, GRID_END * sigma.max().item(), GRID_POINTS, dtype=torch.float64, device=sigma.device)
    beyond = 1 - torch.erf(t[:, None] / (sigma * math.sqrt(2))).prod(1)
    return torch.trapezoid(2 * t * beyond, t)


def concentration(moment: Tensor, group: int | None = None) -> float:
    """E|x|^2 / (d E max x^2) from a second moment [d, d]: 1 where every channel is always at the range's end.

    With groups of channels, each has a range of its own: E max x^2 is their mean, weighted by their sizes.
    """
    variances = moment.diagonal()
    groups = variances.split(group or len(variances))
    maximum = sum(len(part) / len(variances) * expected_squared_maximum(part) for part in groups)
    return (variances.mean() / maximum).item()


def predict(transform: Transform, *, moment_x: Tensor, moment_w: Tensor, setting: Setting) -> Prediction:
    """Predict the noise behind a transform from second moments [d, d] of activations and of the weights on them.

    Source: arXiv 2603.04359.
    """
    transform = transform.double()
    moment_x, moment_w = moment_x.double(), moment_w.double()
    with torch.no_grad():
        transformed_x = transform.apply_to(transform.apply_to(moment_x).T)
        transformed_w = transform.fold(transform.fold(moment_w).T)
    signal = (moment_x * moment_w).sum()  # tr(Sx Sw), both symmetric
    alignment = (len(transformed_x) * signal / (transformed_x.trace() * transformed_w.trace())).item()
    concentration_x, concentration_w = concentration(transformed_x), concentration(transformed_w, setting.group)
    noise = _noise(setting.activations, concentration_x, alignment) + _noise(
        setting.weights, concentration_w, alignment
    )
    return Prediction(
        concentration_x=concentration_x,
        concentration_w=concentration_w,
        alignment=alignment,
        sqnr=-10 * math.log10(noise),
    )


def _noise(bits: int, concentration: float, alignment: float) -> float:
    """1 / SQNR of one operand."""
    return 1 / (3 * (2**bits - 2) ** 2 * concentration * alignment)


def predict_model(subject: Subject, candidates: Candidates) -> list[dict[str, Prediction]]:
    """Predictions {kind: prediction} of each sublayer at its selected site, for the closed-form start of each kind.

    The start is `balance`, whatever the recipe says: random factors are the same for both kinds, and say nothing.
    The moments are those of the states: activations weighted by their sensitivity, which stands for W^T W. ValueError
    names a sublayer whose selected site has no signal: nothing can be predicted there.
    """
    candidates = replace(candidates, recipe=candidates.recipe.model_copy(update={"start": "balance"}))
    predictions = []
    for s in progress(range(subject.num_sublayers), f"predicting at {candidates.setting}"):
        moments = subject.borders.observed(s)
        site = subject.skeleton.family.half(HALVES[s % 2]).selected_site
        if site in silent_sites(moments):
            raise ValueError(
                f"{sublayer_name(s)}: no signal at {site}, where no kind has less noise than another; choose another "
                "policy than `predicted` for this model"
            )
        by_kind = {}
        for kind, fitting in candidates.fittings.items():
            (quantized,) = start_sublayers(subject, fitting, [s])
            by_kind[kind] = predict(
                quantized.transforms[site],
                moment_x=moments[f"{site}.moment"][0],
                moment_w=moments[f"{site}.sensitivity"][0],
                setting=candidates.setting,
            )
        predictions.append(by_kind)
    return predictions
