"""No command writes over what it reads, or one of its files over another: that is refused before any work begins.

A stage that read its input and then wrote over it would leave results whose inputs are gone, or delete a user's model.
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def refuse_collisions(arguments: argparse.Namespace) -> None:
    """ValueError where what --output stands for is not apart from every other path among the arguments.

    `beside` among the arguments is what `add_output` says is written besides, `own` names flags whose files lie in the
    output folder on purpose.
    """
    output = getattr(arguments, "output", None)
    if output is None:
        return
    written = [output, *(output.with_name(output.stem + end) for end in arguments.beside)]
    if arguments.beside and output.suffix != arguments.suffix:
        beside = ", ".join(f"{output.stem}{end}" for end in arguments.beside)
        raise ValueError(f"--output {output} is to end in {arguments.suffix}; beside it {beside} is written")
    given = (value for name, value in vars(arguments).items() if name not in ("output", *arguments.own))
    refuse_overwriting(written, _paths(given))


def refuse_overwriting(written: Iterable[Path], inputs: Iterable[Path]) -> None:
    """ValueError where a file or folder that is written is an input, lies in one, holds one, or is named like one.

    An input file may have others beside it that share its name (.npy and .json), which are read with it.
    """
    places = {path: path.resolve() for path in written}
    for given in inputs:
        read = given.resolve()
        for path, place in places.items():
            if place == read:
                problem = "is an input, too"
            elif read.is_dir() and place.is_relative_to(read):
                problem = f"lies in the input folder {given}"
            elif read.is_relative_to(place):
                problem = f"holds the input {given}"
            elif read.is_file() and place.parent == read.parent and place.stem == read.stem:
                problem = f"is named like the input {given}, beside which more may be read under that name"
            else:
                continue
            raise ValueError(f"{path} would be written, but it {problem}; give another --output")


def _paths(value: Any) -> Iterator[Path]:
    """Every path in flags' values, which are paths, lists, and pairs of a name and a path."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, Iterable) and not isinstance(value, str):
        for part in value:
            yield from _paths(part)
