"""A corpus of one local file, as people give it, looked at before a model is fetched: its fields, and how long it is."""

from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from altq.experiment.section import problems_of
from altq.experiment.sources import CorpusDescription
from altq.runtime.files import sha256
from altq.sources.corpus import SPLITS, read_splits
from altq.sources.corpus_file import read_rows

MESSAGES = "messages"
BYTES_OF_TOKEN = 6
"""At most, about: English has four, and code five. A tokenizer is not at hand before its model is fetched."""
FEWEST_TEST_WINDOWS = 2
"""An interval needs two."""


class TextFile(NamedTuple):
    """A corpus of one file, and the bytes of its splits."""

    description: CorpusDescription
    sizes: dict[str, int]

    def test_windows(self, most: int, length: int) -> int:
        """How many windows of `length` tokens the held-out part surely has, `most` at most; ValueError for a short file."""
        needed = BYTES_OF_TOKEN * length
        windows = self.sizes["test"] // needed
        if windows < FEWEST_TEST_WINDOWS or self.sizes["calibration"] < needed:
            raise ValueError(
                f"{self.description.path} is too short: {self.sizes['calibration']:,} bytes to calibrate on and "
                f"{self.sizes['test']:,} held out, where windows of {length} tokens take {needed:,} and "
                f"{FEWEST_TEST_WINDOWS * needed:,}; give a longer text, or a shorter --window-length"
            )
        return min(most, windows)


def describe_text(path: Path, text_field: str | None = None) -> TextFile:
    """The corpus of a local file: conversations where its rows have `messages`, and no `text_field` is given.

    It is pinned by its hash, so that a run goes on with the text that it began with.

    ValueError, with the file's name, for one that cannot be read or that has no such text.
    """
    path = path.expanduser().absolute()
    fields = {"text_field": text_field} if text_field else {}
    if not text_field and path.suffix not in ("", ".txt") and _has_conversations(path):
        fields = {"messages_field": MESSAGES}
    try:
        description = CorpusDescription.model_validate({"path": str(path), **fields})
        description = description.model_copy(update={"sha256": sha256(path)})
    except ValidationError as error:
        raise ValueError(f"--text {'; '.join(problems_of(error))}") from None
    texts = read_splits(description, path.parent)
    return TextFile(description, {name: sum(len(text.encode()) + 1 for text in texts[name]) for name in SPLITS})


def _has_conversations(path: Path) -> bool:
    if path.suffix not in (".jsonl", ".json", ".parquet") or not path.is_file():
        return False
    rows = read_rows(path)
    first = next(iter(rows.values() if isinstance(rows, dict) else rows), None)
    return isinstance(first, dict) and MESSAGES in first
