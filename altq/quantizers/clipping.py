"""Clipping factors: the share of the largest magnitude that the largest code stands for."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from altq.quantizers.groups import moments_of_groups, split_groups
from altq.quantizers.quantizer import Quantizer
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
        factor = torch.as_tensor(factor, dtype=self.logit.dtype, device=self.logit.device).clamp(max=LARGEST)
        self.logit.copy_(torch.logit(factor).expand_as(self.logit))


@torch.no_grad()
def search_row_clip(weight: Tensor, moment: Tensor | None, quantizer: Quantizer) -> Tensor:
    """Search the factors that minimise dW M dW^T for each row of weight [d_out, d_in], or each group of it; M [d_in, d_in].

    Without a moment, M = I: the squared error. A group is searched by itself, with its own block of M. With a zero
    point both ends of the range have the same factor first; then each end is searched, the other one being fixed.
    Returns factors of the shape `quantizer.clip_shape`.
    """
    shape = quantizer.clip_shape(*weight.shape)
    moments = None if moment is None else moments_of_groups(moment, quantizer.group)
    best, best_error = weight.new_ones(shape), weight.new_full((*shape[:-1], 1), torch.inf)
    for ends in (slice(None), *((0, 1) if quantizer.asymmetric else ())):
        start = best.clone()
        for factor in torch.linspace(1.0, SMALLEST, NUM_FACTORS).tolist():
            candidate = start.clone()
            candidate[..., ends] = factor
            error = _error_of_clip(weight, moments, quantizer, candidate if quantizer.asymmetric else factor)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best = torch.where(better, candidate, best)
    return best


def _error_of_clip(weight: Tensor, moments: Tensor | None, quantizer: Quantizer, clip: Tensor | float) -> Tensor:
    """dW M dW^T of each row, or of each group of it: [d_out, (groups,) 1]."""
    difference = split_groups(quantizer.fake(weight, clip).sub_(weight), quantizer.group)
    if moments is None:
        product = difference
    else:
        with reduced_products():
            product = (difference.transpose(0, -2) @ moments).transpose(0, -2)
    return (product * difference).sum(-1, keepdim=True)


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
