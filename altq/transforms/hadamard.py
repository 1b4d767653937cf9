"""Hadamard transformations: constant orthogonal factors with entries of one magnitude (QuaRot, arXiv 2404.00456)."""

import logging

import torch
from torch import Tensor

from altq.transforms.hadamard_matrix import has_hadamard, orthogonal_hadamard
from altq.transforms.kronecker import Kronecker, factor_sizes
from altq.transforms.rotation import random_orthogonal

log = logging.getLogger(__name__)


def hadamard_factor(size: int, generator: torch.Generator) -> Tensor:
    """An orthogonal [size, size] Hadamard matrix, or a random orthogonal one where none is constructed (logged)."""
    if has_hadamard(size):
        return orthogonal_hadamard(size)
    log.info("no Hadamard matrix of order %d is constructed: a random orthogonal factor stands in", size)
    return random_orthogonal(size, generator)


class Hadamard(Kronecker):
    """T = L (x) R with Hadamard factors; the Kronecker product of two Hadamard matrices is one."""

    def __init__(self, left: Tensor, right: Tensor) -> None:
        super().__init__(len(left) * len(right))
        self.register_buffer("left", left.contiguous())
        self.register_buffer("right", right.contiguous())

    @classmethod
    def of_size(cls, size: int, generator: torch.Generator) -> "Hadamard":
        return cls(*(hadamard_factor(factor, generator) for factor in factor_sizes(size)))

    def fold(self, weight: Tensor) -> Tensor:
        return self.apply_to(weight)
