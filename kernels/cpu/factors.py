"""The factors of a Kronecker transform, checked."""

from typing import NamedTuple

from torch import Tensor


class Factors(NamedTuple):
    """x (L (x) R) of x [d1 * d2], as a matrix L^T X R; a factor that is None is the identity."""

    d1: int
    d2: int
    left: Tensor | None  # L^T, contiguous float32 [d1, d1]
    right: Tensor | None  # contiguous float32 [d2, d2] or, with a matrix for each run of d2 channels, [d1, d2, d2]

    @property
    def has_runs(self) -> bool:
        return self.right is not None and self.right.dim() == 3


def prepare_factors(size: int, left: Tensor | None, right: Tensor | None) -> Factors:
    """The factors L [d1, d1] and R [d2, d2], or [d1, d2, d2] with one for each run, of a transform of `size` channels.

    Raises ValueError where they are not square or do not fit the size.
    """
    shapes = [None if factor is None else list(factor.shape) for factor in (left, right)]
    squares = all(factor is None or factor.shape[-1] == factor.shape[-2] for factor in (left, right))
    if not squares or (left is not None and left.dim() != 2) or (right is not None and right.dim() not in (2, 3)):
        raise ValueError(f"factors must be square matrices, not {shapes[0]} and {shapes[1]}")
    d2 = right.shape[-1] if right is not None else size // (len(left) if left is not None else 1)
    d1 = len(left) if left is not None else size // d2
    if d1 * d2 != size or (right is not None and right.dim() == 3 and len(right) != d1):
        raise ValueError(f"factors {shapes[0]} and {shapes[1]} do not transform {size} channels")
    return Factors(
        d1,
        d2,
        None if left is None else left.detach().float().T.contiguous(),
        None if right is None else right.detach().float().contiguous(),
    )
