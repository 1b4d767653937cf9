"""Affine transformations: free invertible factors (FlatQuant, arXiv 2410.09426; Eq. 3 of the paper)."""

from torch import Tensor, nn

from altq.transforms.kronecker import Kronecker, apply_kronecker
from altq.transforms.transform import inverse_of


class Affine(Kronecker):
    """T = L (x) R with invertible L [d1, d1] and R [d2, d2]."""

    def __init__(self, left: Tensor, right: Tensor) -> None:
        super().__init__(len(left) * len(right))
        self.left = nn.Parameter(left.contiguous())
        self.right = nn.Parameter(right.contiguous())

    def fold(self, weight: Tensor) -> Tensor:
        return apply_kronecker(weight, inverse_of(self.left).mT, inverse_of(self.right).mT)
