"""Tile sizes by target and size: fixed tables, no search at run time, so that what is compiled and tested is what runs."""

from dataclasses import dataclass

import triton


@dataclass(frozen=True)
class KroneckerTiles:
    """How a transform is cut: `tokens` a program, d1 in steps of `rows`, d2 in tiles of `columns`.

    hold: the tiles of a token stay in registers between the search for its largest magnitude and its quantization.
    """

    d1_padded: int
    d2_padded: int
    num_tiles: int
    tokens: int
    rows: int
    columns: int
    hold: bool
    num_warps: int


# By the values of a padded token (d1 d2): tokens a program, rows, columns, whether tiles are held, warps. Rows and
# columns are at most those of the padded factors.
_KRONECKER = {
    1024: (4, 256, 256, True, 4),
    2048: (2, 256, 256, True, 4),
    4096: (2, 256, 256, True, 4),
    8192: (1, 256, 256, True, 4),
    16384: (1, 256, 256, True, 8),
    32768: (1, 256, 32, True, 8),
    65536: (1, 32, 64, False, 8),
}


def kronecker_tiles(
    target: int, d1: int, d2: int, num_tokens: int, *, has_left: bool, has_right: bool
) -> KroneckerTiles:
    """The tiles of a transform with factors of d1 and d2; a factor that is multiplied has a side of at least 16."""
    d1_padded, d2_padded = (max(triton.next_power_of_2(d), 16) for d in (d1, d2))
    values = max(d1_padded * d2_padded, 1024)
    if values not in _KRONECKER:
        raise ValueError(f"factors of {d1} and {d2} are too wide for the kernel; their padded product ends at 65536")
    tokens, rows, columns, hold, num_warps = _KRONECKER[values]
    # With no left factor nothing is summed over rows, which then come in one piece.
    rows = min(rows, d1_padded) if has_left else d1_padded
    columns = min(columns, d2_padded)
    return KroneckerTiles(
        d1_padded,
        d2_padded,
        triton.cdiv(d2, columns),
        min(tokens, triton.next_power_of_2(max(num_tokens, 1))),
        rows,
        columns,
        hold,
        num_warps,
    )
