"""Borders between sublayers whose states are stored, and the disk that they take. Imports nothing heavy.

Border s is the residual stream that enters sublayer s, border 2n what leaves the last block. With a spacing of 1 every
border is stored, and the moments of every site; with a larger one, k, every kth border of blocks and the last one: what
lies between them is computed again when it is needed.
"""

from typing import Literal

from pydantic import Field

from altq.experiment.bounds import NumBlocks
from altq.experiment.section import Section
from altq.experiment.shape import Sizes

FLOAT = 4
"""Bytes of a float32."""

PROBES = 5056
"""Bytes of a generator's position, of which one is stored for each sublayer."""

SHARE_OF_DISK = 0.1
"""States of one model and seed may take so much of the free disk before borders are left out."""

Spacing = Literal["auto"] | NumBlocks


class BorderOptions(Section):
    """Which states are stored."""

    border_every: Spacing = Field(
        "auto",
        description="blocks between two borders whose states are stored; what lies between is computed again when it is "
        "needed, to the same bits. 1 stores all, and second moments, too; auto: the least that takes a tenth of the free "
        "disk",
    )


def stored_borders(num_blocks: int, every: int) -> list[int]:
    """Indices of the borders that are stored, of 0 to 2 num_blocks."""
    if every == 1:
        return list(range(2 * num_blocks + 1))
    return [*range(0, 2 * num_blocks, 2 * every), 2 * num_blocks]


def moment_elements(sizes: Sizes) -> int:
    """Elements of the second moments of all sites of a block."""
    return sum(width**2 for width in sizes.site_widths) + sizes.key_value * sizes.head_dim


def bytes_of_states(sizes: Sizes, num_windows: int, length: int, every: int) -> int:
    """Bytes of the states over so many windows: at stored borders, and the moments or what they are computed from."""
    tokens, num_sublayers = num_windows * length, 2 * sizes.num_blocks
    stored = FLOAT * tokens * sizes.hidden * len(stored_borders(sizes.num_blocks, every))
    if every == 1:
        return stored + FLOAT * 2 * moment_elements(sizes) * sizes.num_blocks
    return stored + num_sublayers * (FLOAT * tokens + PROBES)


def spacing(asked: Spacing, sizes: Sizes, num_windows: int, length: int, *, free: float) -> int:
    """The spacing that is asked for, at most the number of blocks; `auto` follows from the bytes of free disk."""
    if asked != "auto":
        return min(asked, sizes.num_blocks)
    spacings = range(1, sizes.num_blocks)
    fitting = (k for k in spacings if bytes_of_states(sizes, num_windows, length, k) <= SHARE_OF_DISK * free)
    return next(fitting, sizes.num_blocks)
