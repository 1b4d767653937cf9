"""A setting: the bit widths of weights, activations, keys and values, written W4A4K4V4, and groups of weights.

`W4A16` is short for W4A16K16V16: without quantized activations the cache is left as it is, too. `g128` at the end gives
each run of 128 input channels of a weight a scale of its own.
"""

import re
from dataclasses import dataclass

FULL_PRECISION_BITS = 16
SCALE_BITS = 16
"""Bits that the scale of a group of weights takes in a checkpoint."""

BITS = (2, 3, 4, 5, 6, 7, 8, FULL_PRECISION_BITS)


@dataclass(frozen=True)
class Setting:
    """Bit widths; 16 means full precision, i.e. no quantizer at all.

    group: input channels that share a scale in each row of a weight; None for one scale a row.
    """

    weights: int
    activations: int
    keys: int
    values: int
    group: int | None = None

    def __post_init__(self) -> None:
        for name in ("weights", "activations", "keys", "values"):
            if (bits := getattr(self, name)) not in BITS:
                raise ValueError(
                    f"setting {self}: {bits} bits for {name} cannot be used; "
                    f"give one of {', '.join(map(str, BITS))} ({FULL_PRECISION_BITS} is full precision)"
                )
        if self.group is not None and self.group < 1:
            raise ValueError(f"setting {self}: a group of {self.group} channels cannot be used; give 1 or more")
        if self.group is not None and self.weights == FULL_PRECISION_BITS:
            raise ValueError(
                f"setting {self}: weights of {FULL_PRECISION_BITS} bits have no scales; leave out the group"
            )

    @classmethod
    def parse(cls, text: str) -> "Setting":
        """Read `W4A4K4V4` (or `W4A4KV4`, which means the same; `W4A16` means W4A16K16V16), each also with `g128`.

        ValueError for another form, width or group.
        """
        match = re.fullmatch(r"W(\d+)A(\d+)(?:K(\d+)V(\d+)|KV(\d+)|(?<=A16))(?:g(\d+))?", text, re.ASCII)
        if not match:
            raise ValueError(f"setting {text!r} is not of the form W4A4K4V4, W4A16 or W4A16g128")
        weights, activations, keys, values, cache, group = match.groups()
        cache = cache or activations
        return cls(
            int(weights),
            int(activations),
            int(keys or cache),
            int(values or cache),
            None if group is None else int(group),
        )

    def __str__(self) -> str:
        widths = f"W{self.weights}A{self.activations}K{self.keys}V{self.values}"
        return widths if self.group is None else f"{widths}g{self.group}"

    @property
    def average_bits(self) -> float:
        """Bits of a weight, with its share of a group's scale; that of a whole row is not counted."""
        return self.weights + (0 if self.group is None else SCALE_BITS / self.group)


FULL_PRECISION = Setting(*4 * (FULL_PRECISION_BITS,))

FULL = "full"
"""The name of the full-precision model among the methods: it has no selection and no checkpoint of its own."""
