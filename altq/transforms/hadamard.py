"""Hadamard transformations: constant orthogonal factors with entries of one magnitude (QuaRot, arXiv 2404.00456)."""

import logging
import math
from functools import cache

import torch
from torch import Tensor

from altq.transforms.hadamard_matrix import has_hadamard, orthogonal_hadamard
from altq.transforms.kronecker import Kronecker
from altq.transforms.rotation import random_orthogonal

log = logging.getLogger(__name__)


def hadamard_factor(size: int, generator: torch.Generator) -> Tensor:
    """An orthogonal Hadamard matrix, float64 [size, size].

    Where none is constructed: the Kronecker product of the largest that divides it and a random orthogonal matrix; a
    warning says so.
    """
    order = max(d for d in range(1, size + 1) if size % d == 0 and has_hadamard(d))
    if order == size:
        return orthogonal_hadamard(size)
    _warn_of_stand_in(size, order)
    return torch.kron(orthogonal_hadamard(order), random_orthogonal(size // order, generator))


def randomized_hadamard(size: int, generator: torch.Generator) -> Tensor:
    """diag(s) H with random signs s and H of `hadamard_factor`, float64 [size, size] (QuaRot's residual rotation).

    In x T each input channel gets its sign before the channels are mixed.
    """
    signs = torch.randint(0, 2, (size, 1), generator=generator).mul_(2).sub_(1)
    return hadamard_factor(size, generator) * signs


@cache
def _warn_of_stand_in(size: int, order: int) -> None:
    log.warning(
        "no Hadamard matrix of order %d is constructed: one of order %d times a random orthogonal one of %d stands in",
        size, order, size // order,
    )  # fmt: skip


class Hadamard(Kronecker):
    """T = L (x) R with Hadamard factors; the Kronecker product of two Hadamard matrices is one."""

    def __init__(self, left: Tensor, right: Tensor) -> None:
        super().__init__(len(left) * len(right))
        self.register_buffer("left", left.contiguous())
        self.register_buffer("right", right.contiguous())

    @classmethod
    def of_size(cls, size: int, generator: torch.Generator) -> "Hadamard":
        """Hadamard transform with factors as close in size as possible, of orders with a Hadamard matrix if any are."""
        pairs = [(d, size // d) for d in range(1, math.isqrt(size) + 1) if size % d == 0]
        constructed = [pair for pair in pairs if all(map(has_hadamard, pair))]
        left, right = (constructed or pairs)[-1]
        return cls(hadamard_factor(left, generator), hadamard_factor(right, generator))

    def fold(self, weight: Tensor) -> Tensor:
        return self.apply_to(weight)
