"""A Kronecker transform as the kernels read it: factors padded to vectors, and split into tiles for AMX."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

LANES = 16
"""Floats of the widest vector: columns are padded to its multiples, which narrower ones divide."""

_SIDE, _DEPTH = 16, 32
"""Rows of an AMX tile, and bfloat16 values of one of its rows."""

_LEAST_ROWS_OF_TILES = 16
"""With fewer rows than a tile has, vectors are faster."""


class Factors(NamedTuple):
    """x (L (x) R), [d1 * d2]; factors that are None are the identity, tiles None where there are none."""

    d1: int
    d2: int
    left: Tensor | None  # L^T [d1, d1]
    right: Tensor | None  # [d2, padded d2] or, with a matrix for each run of d2 channels, [d1, d2, padded d2]
    left_tiles: Tensor | None
    right_tiles: Tensor | None


def prepare_factors(size: int, left: Tensor | None, right: Tensor | None, *, lanes: int, tiles: bool) -> Factors:
    """Lay out L [d1, d1] and R [d2, d2], or [d1, d2, d2] with one for each run, for x of `size` = d1 d2 channels.

    Raises ValueError where they are not square or do not fit the size.
    """
    for name, factor in (("left", left), ("right", right)):
        if factor is not None and (factor.dim() not in (2, 3) or factor.shape[-1] != factor.shape[-2]):
            raise ValueError(f"the {name} factor must be square, not {list(factor.shape)}")
    if left is not None and left.dim() != 2:
        raise ValueError(f"the left factor is one matrix, not {list(left.shape)}")
    d2 = right.shape[-1] if right is not None else size // (len(left) if left is not None else 1)
    d1 = len(left) if left is not None else size // d2
    if d1 * d2 != size or (right is not None and right.dim() == 3 and len(right) != d1):
        shapes = [None if factor is None else list(factor.shape) for factor in (left, right)]
        raise ValueError(f"factors {shapes[0]} and {shapes[1]} do not transform {size} channels")
    tiles = tiles and left is not None and d1 >= _LEAST_ROWS_OF_TILES and (right is None or right.dim() == 2)
    return Factors(
        d1,
        d2,
        None if left is None else left.float().T.contiguous(),
        None if right is None else F.pad(right.float(), (0, -d2 % lanes)).contiguous(),
        _row_tiles(left.float().T) if tiles else None,
        _column_tiles(right.float()) if tiles and right is not None else None,
    )


def _halves(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Two bfloat16 matrices whose sum is the matrix to a relative 2^-17."""
    upper = matrix.bfloat16()
    return upper, (matrix - upper.float()).bfloat16()


def _padded(matrix: Tensor, rows: int, columns: int) -> Tensor:
    return F.pad(matrix, (0, -matrix.shape[1] % columns, 0, -matrix.shape[0] % rows))


def _row_tiles(matrix: Tensor) -> Tensor:
    """Tiles of a factor that stands on the left: [row tiles, depth tiles, halves, 16, 32]."""
    tiled = [
        half.view(len(half) // _SIDE, _SIDE, -1, _DEPTH).transpose(1, 2)
        for half in _halves(_padded(matrix, _SIDE, _DEPTH))
    ]
    return torch.stack(tiled, dim=2).contiguous()


def _column_tiles(matrix: Tensor) -> Tensor:
    """Tiles of a factor that stands on the right, two rows interleaved: [column tiles, depth tiles, halves, 16, 16, 2]."""
    tiled = [
        half.view(len(half) // _DEPTH, _SIDE, 2, -1, _SIDE).permute(3, 0, 1, 4, 2)
        for half in _halves(_padded(matrix, _DEPTH, _SIDE))
    ]
    return torch.stack(tiled, dim=2).contiguous()
