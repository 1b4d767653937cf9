"""Per-channel scaling, and the composition that combines it with any other kind."""

import torch
from torch import Tensor, nn

from altq.transforms.transform import Transform


class Scaling(Transform):
    """T = diag(exp(log_scale)), [size]; the logarithm keeps every step invertible."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__(len(scale))
        self.log_scale = nn.Parameter(scale.log())

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp()

    def apply_to(self, x: Tensor) -> Tensor:
        return x * self.scale

    def fold(self, weight: Tensor) -> Tensor:
        return weight / self.scale


def smooth_scale(peak_x: Tensor, peak_w: Tensor, alpha: float) -> Tensor:
    """max|W|^(1-a) / max|X|^a for each channel, [d] (SmoothQuant, arXiv 2211.10438, Eq. 4; x is multiplied by it).

    peak_x, peak_w: the largest magnitudes of each input channel and of each column that reads it. A channel that is
    never used keeps the scale 1.
    """
    scale = peak_w.double().pow(1 - alpha) / peak_x.double().pow(alpha)
    return torch.where((peak_x > 0) & (peak_w > 0), scale, 1.0)


class Scaled(Transform):
    """T = S M: a scaling, which folds into what lies before the site, then any transformation, which stays online."""

    def __init__(self, scaling: Scaling, online: Transform) -> None:
        super().__init__(scaling.size)
        if scaling.size != online.size:
            raise ValueError(f"a scaling of {scaling.size} channels cannot stand before one of {online.size}")
        self.scaling = scaling
        self.online = online

    def apply_to(self, x: Tensor) -> Tensor:
        return self.online.apply_to(self.scaling.apply_to(x))

    def fold(self, weight: Tensor) -> Tensor:
        return self.online.fold(self.scaling.fold(weight))
