"""Gradient descent on orthogonal matrices by the Cayley transform (Li, Fuxin and Todorovic, arXiv 2002.01113).

SpinQuant (arXiv 2405.16406) learns its rotations with it.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

EPSILON = 1e-8


class CayleySGD(torch.optim.Optimizer):
    """X <- (I + a/2 W)^-1 (I - a/2 W) X with W = (G X^T - X G^T) / 2 for orthogonal X [..., d, d] with gradient G.

    a is the learning rate, but at most 1 / |W|_1: steps stay moderate whatever the scale of the loss (Algorithm 1).
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is ever evaluated here
        for group in self.param_groups:
            for x in group["params"]:
                if x.grad is None:
                    continue
                tangent = x.grad @ x.mT
                skew = (tangent - tangent.mT) / 2
                norm = torch.linalg.matrix_norm(skew, 1)[..., None, None]  # the largest sum of a column
                rate = (1 / (norm + EPSILON)).clamp(max=group["lr"])
                half = rate / 2 * skew
                eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
                x.copy_(torch.linalg.solve(eye + half, (eye - half) @ x))
