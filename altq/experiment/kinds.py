"""Kinds of transformation and halves of a block: the two axes of a selection."""

KINDS = ("identity", "scaling", "hadamard", "rotation", "affine", "balance")
"""Kinds of transformation at the selected sites, qkv and gate_up."""

HALVES = ("attention", "ffn")
"""Halves of a block, in the order in which they run; sublayer 2i + h is half h of block i."""


def sublayer_name(sublayer: int) -> str:
    """The name of a sublayer for people: `block 3 attention` for sublayer 6."""
    return f"block {sublayer // 2} {HALVES[sublayer % 2]}"
