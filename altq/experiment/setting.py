"""A setting: the bit widths of weights, activations, keys and values, written W4A4K4V4."""

import re
from dataclasses import dataclass

FULL_PRECISION_BITS = 16
BITS = (2, 3, 4, 5, 6, 7, 8, FULL_PRECISION_BITS)


@dataclass(frozen=True)
class Setting:
    """Bit widths; 16 means full precision, i.e. no quantizer at all."""

    weights: int
    activations: int
    keys: int
    values: int

    def __post_init__(self) -> None:
        for name, bits in vars(self).items():
            if bits not in BITS:
                raise ValueError(
                    f"setting {self}: {bits} bits for {name} cannot be used; "
                    f"give one of {', '.join(map(str, BITS))} ({FULL_PRECISION_BITS} is full precision)"
                )

    @classmethod
    def parse(cls, text: str) -> "Setting":
        """Read `W4A4K4V4` (or `W4A4KV4`, which means W4A4K4V4); ValueError for another form or width."""
        match = re.fullmatch(r"W(\d+)A(\d+)(?:K(\d+)V(\d+)|KV(\d+))", text)
        if not match:
            raise ValueError(f"setting {text!r} is not of the form W4A4K4V4")
        weights, activations, keys, values, cache = match.groups()
        return cls(int(weights), int(activations), int(keys or cache), int(values or cache))

    def __str__(self) -> str:
        return f"W{self.weights}A{self.activations}K{self.keys}V{self.values}"


FULL_PRECISION = Setting(*4 * (FULL_PRECISION_BITS,))

FULL = "full"
"""The name of the full-precision model among the methods: it has no selection and no checkpoint of its own."""
