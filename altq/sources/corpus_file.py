"""Documents of local files: text or conversations, from .txt, .json, .jsonl, .parquet and .csv."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from altq.runtime import files
from altq.sources.lines import rows_of_lines

REMEDY = "correct or replace the file"
ABSENT = object()


class Document(NamedTuple):
    """A document: its text, or a conversation as one line of JSON."""

    title: str
    text: str


class Fields(NamedTuple):
    """The fields of a row that are read; a conversation in the field `messages` takes the place of the text."""

    text: str = "text"
    title: str = "title"
    messages: str | None = None


BY_DEFAULT = Fields()


def read_documents(path: str | Path, fields: Fields = BY_DEFAULT) -> list[Document]:
    """The documents of a file, as CorpusDescription defines them; ValueError where they cannot be read."""
    path = Path(path)
    if path.suffix == ".txt":
        if fields.messages:
            raise ValueError(f"{path} is plain text and has no field {fields.messages!r}; leave messages_field out")
        text = files.decoded(path.read_bytes(), path).replace("\r\n", "\n")
        parts = (part for part in text.split("\n\n") if part.strip())
        return [Document(part.strip().split("\n")[0], part.strip("\n")) for part in parts]
    rows = read_rows(path)
    if isinstance(rows, dict):
        return [_document(row, fields, title=title, place=f"{path}, {title!a}") for title, row in rows.items()]
    titles = [row.get(fields.title, ABSENT) if isinstance(row, dict) else ABSENT for row in rows]
    return [_document(row, fields, title=titles[n], place=f"{path}, row {n}") for n, row in enumerate(rows)]


def read_rows(path: Path) -> dict[str, Any] | Sequence[Any]:
    """The rows of a file: a list, or of a .json file also an object title -> row; ValueError where there are none."""
    match path.suffix:
        case ".parquet":
            return _parquet_rows(path)
        case ".csv":
            return _csv_rows(path)
    content = path.read_bytes()
    try:
        if path.suffix == ".jsonl":
            return list(rows_of_lines(content, path))
        rows = files.parse_json(files.decoded(content, path), path)
    except ValueError as error:
        raise ValueError(f"{error}; {REMEDY}") from None
    if not isinstance(rows, dict | list):
        raise ValueError(f"{path} holds a {type(rows).__name__}; a corpus is an object title -> text or a list of rows")
    return rows


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} is no Parquet that can be read ({error}); {REMEDY}") from error


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table whose first line names the columns; all that is in it is text."""
    import pandas

    try:
        table = pandas.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV that can be read ({error}); {REMEDY}") from error
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _document(row: Any, fields: Fields, title: Any, place: str) -> Document:
    """Title (the text where it is absent) and text of a row."""
    text = conversation_of(row, fields.messages, place) if fields.messages else text_of(row, fields.text, place)
    return Document(encodable(text if title is ABSENT else str(title), place), text)


def text_of(row: Any, field: str, place: str) -> str:
    """The text of a row, which is text itself or has it in a field; ValueError where there is none."""
    text = row.get(field) if isinstance(row, dict) else row
    if not isinstance(text, str):
        raise ValueError(f"{place} has no text in the field {field!r} ({_content(row)}); correct text_field")
    return encodable(text, place)


def conversation_of(row: Any, field: str, place: str) -> str:
    """The conversation in a field of a row as a line of JSON: a list of objects with a role, as chat templates read it.

    ValueError, with its place, for a field that holds none.
    """
    turns = row.get(field) if isinstance(row, dict) else None
    if not isinstance(turns, list) or not turns or not all(_is_turn(turn) for turn in turns):
        raise ValueError(
            f"{place} has no conversation in the field {field!r} ({_content(row)}): a list of objects with `role` and "
            "`content`; correct messages_field"
        )
    try:
        return encodable(json.dumps(turns, ensure_ascii=False, allow_nan=False), place)
    except (ValueError, TypeError) as error:  # NaN, or a date of Parquet's
        raise ValueError(f"{place}: its conversation is not JSON ({error}); {REMEDY}") from None


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str) and "content" in turn


def _content(row: Any) -> str:
    return f"fields: {', '.join(row)}" if isinstance(row, dict) else f"a {type(row).__name__}"


def encodable(text: str, place: str) -> str:
    """The text; ValueError where it has half of a pair of surrogates, which no file can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        surrogate = text[error.start]
        raise ValueError(
            f"{place} has {surrogate!a}, half of a character, at {error.start}; correct the file"
        ) from None
    return text
