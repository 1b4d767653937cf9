"""What is combined must agree: the one place that compares, and the one message."""

from collections.abc import Mapping
from pathlib import Path


def require_consistency(sides: Mapping[str | Path, Mapping[str, str]]) -> None:
    """ValueError unless all sides agree in what they say of the same thing.

    sides: files, folders or the options given -> {a thing that they are of, such as "model" or "setting": which one}.
    The message names two of them, what differs and the remedy.
    """
    known: dict[str, tuple[str | Path, str]] = {}
    for side, traits in sides.items():
        for name, trait in traits.items():
            first, expected = known.setdefault(name, (side, trait))
            if trait != expected:
                raise ValueError(
                    f"{first} and {side} do not go together: the {name} of the first is {expected}, of the second "
                    f"{trait}; give both of the same {name}, or make {side} again for it"
                )
