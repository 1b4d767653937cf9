"""Rows of JSON lines: a value a line, as corpora and items have them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from altq.runtime.files import decoded, parse_json


def rows_of_lines(content: bytes, path: Path) -> Iterator[Any]:
    """The value of each line that is not blank; ValueError names the file and the line of what is no JSON."""
    for number, line in enumerate(decoded(content, path).split("\n"), start=1):
        if line.strip():
            yield parse_json(line, f"{path}, line {number}")
