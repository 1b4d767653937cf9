"""Tile sizes by target and size, from fixed tables: with no search at run time, the tiles that run have been tested."""

from dataclasses import dataclass, replace

import triton


@dataclass(frozen=True)
class KroneckerTiles:
    """Tiles of a transform: `tokens` a program, d1 in steps of `rows`, d2 in `num_tiles` tiles of `columns`."""

    d1_padded: int
    d2_padded: int
    num_tiles: int
    tokens: int
    rows: int
    columns: int
    num_warps: int


# By the values of a padded token (d1 d2): tokens a program, rows, columns, warps. Rows and columns are at most those of
# the padded factors.
_KRONECKER = {
    1024: (4, 128, 128, 4),
    2048: (2, 128, 128, 4),
    4096: (2, 128, 128, 4),
    8192: (1, 128, 128, 4),
    16384: (1, 128, 128, 8),
    32768: (1, 32, 32, 8),
    65536: (1, 32, 32, 8),
}
WIDEST_TRANSFORM = max(_KRONECKER)
"""Values of a padded token up to which there are tiles."""

_KRONECKER_OF_TARGET = {(89, 32768): (1, 64, 32, 8), (100, 32768): (1, 64, 32, 8)}
"""Exceptions by target, which hands out registers in its own way: with 32 rows, a few would be spilled."""

_ROWS_OF_A_WIDE_FACTOR = {80: 32, 89: 32, 90: 32, 100: 64}
"""Target -> rows of a left factor of 256, which has to come in parts: whole, it would take 128 KB of shared memory."""


def kronecker_tiles(target: int, d1: int, d2: int, num_tokens: int, *, has_left: bool) -> KroneckerTiles:
    """The tiles of a transform with factors of d1 and d2; a factor that is multiplied has a side of at least 16.

    ValueError for factors that are too wide for the kernel.
    """
    d1_padded, d2_padded = padded_sides(d1, d2)
    values = max(d1_padded * d2_padded, 1024)
    if values > WIDEST_TRANSFORM:
        raise ValueError(
            f"factors of {d1} and {d2} are too wide for the kernel; their padded product ends at {WIDEST_TRANSFORM}"
        )
    tokens, rows, columns, num_warps = _KRONECKER_OF_TARGET.get((target, values), _KRONECKER[values])
    if d1_padded >= 256:
        rows = _ROWS_OF_A_WIDE_FACTOR[target]
    if d2_padded >= 256:  # in parts, too
        columns = min(columns, 64)
    # With no left factor nothing is summed over rows, which then come in one piece.
    rows = min(rows, d1_padded) if has_left else d1_padded
    columns = min(columns, d2_padded)
    tokens = min(tokens, triton.next_power_of_2(max(num_tokens, 1)))
    return KroneckerTiles(d1_padded, d2_padded, triton.cdiv(d2, columns), tokens, rows, columns, num_warps)


def padded_sides(d1: int, d2: int) -> tuple[int, int]:
    """The sides of a token's tile: powers of two that a tensor core multiplies, of 16 at least."""
    return max(triton.next_power_of_2(d1), 16), max(triton.next_power_of_2(d2), 16)


@dataclass(frozen=True)
class LinearTiles:
    """A tile of a product: tokens by rows of the weight, in steps of `pairs` of channels; `splits` programs share it."""

    tokens: int
    rows: int
    pairs: int
    splits: int
    num_warps: int
    num_stages: int


MULTIPROCESSORS = {80: 108, 89: 128, 90: 132, 100: 148}
"""Target -> multiprocessors of the A100, RTX 4090, H100 and B200."""

# By the most tokens that they serve: tokens, rows, pairs, warps, stages.
_DECODE = {16: (16, 64, 128, 4, 4), 32: (32, 64, 128, 4, 4), 64: (64, 64, 64, 4, 4), 128: (128, 64, 64, 4, 4)}
_PREFILL = {
    80: (128, 128, 64, 8, 3),
    89: (128, 128, 64, 8, 3),
    90: (128, 128, 64, 8, 4),
    100: (128, 128, 64, 8, 4),
}
_MAX_SPLITS = 8

MOST_SHARED_TOKENS = 128
"""Tokens of a product up to which programs share tiles, for which a workspace has to be there."""


def linear_tiles(target: int, num_tokens: int, num_rows: int, num_pairs: int, rows: tuple[int, ...]) -> LinearTiles:
    """The tiles of a product; with several inputs they are narrow enough for each to read one of them."""
    decode = next((most for most in _DECODE if num_tokens <= most), None)
    tokens, tile_rows, pairs, num_warps, num_stages = _DECODE[decode] if decode else _PREFILL[target]
    if len(rows) > 1 and any(n % tile_rows for n in rows):
        tile_rows = 64
    num_tiles = triton.cdiv(num_tokens, tokens) * triton.cdiv(num_rows, tile_rows)
    splits = _splits(target, num_tokens, num_tiles, num_pairs, pairs)
    return LinearTiles(tokens, tile_rows, pairs, splits, num_warps, num_stages)


def _splits(target: int, num_tokens: int, num_tiles: int, num_pairs: int, pairs: int) -> int:
    """The number of programs that share a tile: two for each multiprocessor, each of at least 4 steps of `pairs`."""
    if num_tokens > MOST_SHARED_TOKENS:
        return 1
    return max(min(2 * MULTIPROCESSORS[target] // max(num_tiles, 1), num_pairs // (4 * pairs), _MAX_SPLITS), 1)


@dataclass(frozen=True)
class Int4Tiles:
    """A tile of an int4 product.

    A warp has row_blocks x token_blocks tiles of 16 rows and 8 tokens, and loads `steps`
    times 64 channels at a time; a program has row_warps x token_warps warps.
    """

    row_blocks: int
    token_blocks: int
    row_warps: int
    token_warps: int
    steps: int
    splits: int = 1

    @property
    def tokens(self) -> int:
        return 8 * self.token_blocks * self.token_warps

    @property
    def rows(self) -> int:
        return 16 * self.row_blocks * self.row_warps

    @property
    def num_warps(self) -> int:
        return self.row_warps * self.token_warps


# By the most tokens that they serve; the last one serves any number.
_INT4 = {
    8: Int4Tiles(1, 1, 4, 1, 8),
    16: Int4Tiles(1, 2, 4, 1, 4),
    32: Int4Tiles(1, 4, 4, 1, 4),
    64: Int4Tiles(1, 8, 4, 1, 2),
    128: Int4Tiles(2, 4, 2, 4, 2),
    None: Int4Tiles(4, 8, 2, 2, 1),
}


def int4_tiles(target: int, num_tokens: int, num_rows: int, num_pairs: int, rows: tuple[int, ...]) -> Int4Tiles:
    """The tiles of an int4 product; few tokens share them as in `linear_tiles`."""
    tiles = next(tiles for most, tiles in _INT4.items() if most is None or num_tokens <= most)
    if len(rows) > 1 and any(n % tiles.rows for n in rows):
        tiles = replace(tiles, row_blocks=tiles.row_blocks * 64 // tiles.rows)
    num_tiles = triton.cdiv(num_tokens, tiles.tokens) * triton.cdiv(num_rows, tiles.rows)
    return replace(tiles, splits=_splits(target, num_tokens, num_tiles, num_pairs, 32 * tiles.steps))


APPEND_TOKENS = 16
"""Tokens of a head that a program of the cache kernel takes: the fewest that a tensor core multiplies."""

APPEND_WARPS = {"decode": 4, "prefill": 16}
"""Warps by phase: a prefill keeps its values and needs more registers, of which 8 warps spill a few on sm_80."""

ATTENTION_TOKENS = 64
"""Tokens of the cache that a program of the attention kernel takes at a time."""

ATTENTION_WARPS = 8
"""4 spill a few registers at 3 bits on sm_89, and at 2 bits with a key transform on sm_100."""


def attention_splits(target: int, num_heads: int, capacity: int) -> int:
    """The number of programs that share the tokens of a key head: four a multiprocessor, each of at least 128 tokens."""
    count = min(triton.cdiv(4 * MULTIPROCESSORS[target], max(num_heads, 1)), capacity // (2 * ATTENTION_TOKENS), 32)
    return 1 << max(count, 1).bit_length() - 1
