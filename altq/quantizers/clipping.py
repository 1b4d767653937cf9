"""Clipping factors: the share of the largest magnitude that the largest code stands for."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from altq.quantizers.quantizer import Quantizer
from altq.quantizers.uniform import quantize
from altq.runtime.precision import reduced_products

LARGEST = 0.9999
"""As good as 1, which no sigmoid reaches."""

SMALLEST = 0.3
NUM_FACTORS = 15
"""The grid that searches look at: 1.0, 0.95, ... 0.3."""


class Clip(nn.Module):
    """Learnable factors sigmoid(logit) in (0, 1), of any shape; they start at no clipping."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.logit(torch.full(shape, LARGEST)))

    def forward(self) -> Tensor:
        return self.logit.sigmoid()

    @torch.no_grad()
    def set(self, factor: Tensor | float) -> None:
        factor = torch.as_tensor(factor, dtype=self.logit.dtype).clamp(max=LARGEST)
        self.logit.copy_(torch.logit(factor).expand_as(self.logit))


@torch.no_grad()
def search_row_clip(weight: Tensor, moment: Tensor | None, quantizer: Quantizer) -> Tensor:
    """Search the factor [d_out, 1] that minimises dW M dW^T for each row of weight [d_out, d_in]; M [d_in, d_in].

    Without a moment, M = I: the row's squared error.
    """
    best_error = torch.full_like(weight[:, :1], torch.inf)
    best = torch.ones_like(best_error)
    for factor in torch.linspace(1.0, SMALLEST, NUM_FACTORS).tolist():
        scale = quantizer.scale(weight, factor)
        difference = quantize(weight, scale, quantizer.bits).mul_(scale).sub_(weight)
        product = difference
        if moment is not None:
            with reduced_products():
                product = difference @ moment
        error = (product * difference).sum(-1, keepdim=True)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best = torch.where(better, factor, best)
    return best


def search_factor(loss: Callable[[float], float], start: float) -> float:
    """Search a clipping factor at a local minimum of `loss`: downhill from `start`, in coarse steps, then fine ones."""
    best, best_loss = start, loss(start)
    for step in (0.1, 0.05):
        for direction in (-step, step):
            moved = False
            while SMALLEST <= (candidate := round(best + direction, 2)) <= 1.0:
                candidate_loss = loss(candidate)
                if not candidate_loss < best_loss:
                    break
                best, best_loss, moved = candidate, candidate_loss, True
            if moved:
                break
    return best
