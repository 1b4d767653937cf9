"""Rotations: orthogonal factors, kept on their manifold by Riemannian optimisers (Eq. 4 of the paper; geoopt)."""

import geoopt
import torch
from torch import Tensor

from altq.transforms.kronecker import Kronecker

_STIEFEL = geoopt.EuclideanStiefel()


def stiefel_parameter(matrices: Tensor) -> geoopt.ManifoldParameter:
    """Orthogonal matrices [..., d, d] as a parameter on the Stiefel manifold."""
    return geoopt.ManifoldParameter(matrices.contiguous(), manifold=_STIEFEL)


@torch.no_grad()
def project_orthogonal(matrices: Tensor) -> None:
    """Move [..., d, d] in place to the nearest orthogonal matrices (polar factor): Riemannian steps drift."""
    u, _, vh = torch.linalg.svd(matrices.double())
    matrices.copy_(u @ vh)


def orthogonality_error(matrices: Tensor) -> float:
    """max |R^T R - I| over [..., d, d], in float64; NaN where anything is NaN."""
    matrices = matrices.detach().double()
    return (matrices.mT @ matrices - torch.eye(matrices.shape[-1], device=matrices.device)).abs().max().item()


class Rotation(Kronecker):
    """T = L (x) R with orthogonal L and R; a full rotation has L = [[1]]. The inverse is the transpose."""

    def __init__(self, left: Tensor, right: Tensor) -> None:
        super().__init__(len(left) * len(right))
        self.left = stiefel_parameter(left)
        self.right = stiefel_parameter(right)

    def fold(self, weight: Tensor) -> Tensor:
        return self.apply_to(weight)


def cayley_image(matrix: Tensor) -> Tensor:
    """(I - A/2)^-1 (I + A/2) of the skew-symmetric A = tril(M) - tril(M)^T: [d, d] -> orthogonal [d, d].

    torch's orthogonal parametrisation with the Cayley map, without trivialisation, starts here when it is given M.
    """
    skew = matrix.tril() - matrix.tril().mT
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.solve(eye - skew / 2, eye + skew / 2).contiguous()


def random_orthogonal(size: int, generator: torch.Generator) -> Tensor:
    """A Haar-random orthogonal matrix, float64: QR of a Gaussian with the signs of R's diagonal made positive."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).contiguous()
