"""Hadamard transformations: constant orthogonal factors with entries of one magnitude (QuaRot, arXiv 2404.00456)."""

import logging

import torch
from torch import Tensor

from altq.transforms.hadamard_matrix import has_hadamard, orthogonal_hadamard
from altq.transforms.kronecker import apply_kronecker, factor_sizes
from altq.transforms.rotation import random_orthogonal
from altq.transforms.transform import Transform

log = logging.getLogger(__name__)


def hadamard_factor(size: int, generator: torch.Generator) -> Tensor:
    """An orthogonal [size, size] Hadamard matrix, or a random orthogonal one with a warning where there is none."""
    if has_hadamard(size):
        return orthogonal_hadamard(size)
    log.warning("no Hadamard matrix of order %d is constructed: a random orthogonal factor stands in", size)
    return random_orthogonal(size, generator)


class Hadamard(Transform):
    """T = L (x) R with Hadamard factors; the Kronecker product of two Hadamard matrices is one."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.size = size
        for name, factor_size in zip(("left", "right"), factor_sizes(size)):
            self.register_buffer(name, hadamard_factor(factor_size, generator))

    def apply_to(self, x: Tensor) -> Tensor:
        return apply_kronecker(x, self.left, self.right)

    def fold(self, weight: Tensor) -> Tensor:
        return self.apply_to(weight)
