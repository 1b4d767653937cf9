"""Consistency of inputs that are combined: the one comparison, and the one message."""

from collections.abc import Mapping
from pathlib import Path


def require_consistency(sides: Mapping[str | Path, Mapping[str, str]]) -> None:
    """Raise ValueError unless all sides have the same value of each trait that they share.

    sides: file, folder or the options -> {name of a trait, such as "model" or "setting": its value}. The message names
    two sides, the trait that differs and the remedy.
    """
    first_values: dict[str, tuple[str | Path, str]] = {}
    for side, traits in sides.items():
        for name, trait in traits.items():
            first, value = first_values.setdefault(name, (side, trait))
            if trait != value:
                raise ValueError(
                    f"{first} and {side} do not go together: the {name} of the first is {value}, of the second "
                    f"{trait}; give both of the same {name}, or make {side} again for it"
                )
