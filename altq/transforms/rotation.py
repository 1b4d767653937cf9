"""Rotations: orthogonal factors, kept on their manifold by Riemannian Adam (Eq. 4 of the paper; geoopt)."""

import geoopt
import torch
from torch import Tensor

from altq.transforms.kronecker import Kronecker

_STIEFEL = geoopt.EuclideanStiefel()


class Rotation(Kronecker):
    """T = L (x) R with orthogonal L and R; a full rotation has L = [[1]]. The inverse is the transpose."""

    def __init__(self, left: Tensor, right: Tensor) -> None:
        super().__init__(len(left) * len(right))
        self.left = geoopt.ManifoldParameter(left.contiguous(), manifold=_STIEFEL)
        self.right = geoopt.ManifoldParameter(right.contiguous(), manifold=_STIEFEL)

    def fold(self, weight: Tensor) -> Tensor:
        return self.apply_to(weight)

    @torch.no_grad()
    def project(self) -> None:
        """Move both factors to the nearest orthogonal matrices (polar factor): Riemannian steps drift by rounding."""
        for factor in (self.left, self.right):
            u, _, vh = torch.linalg.svd(factor.double())
            factor.copy_(u @ vh)


def random_orthogonal(size: int, generator: torch.Generator) -> Tensor:
    """A Haar-random orthogonal matrix, float64: QR of a Gaussian with the signs of R's diagonal made positive."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).contiguous()
