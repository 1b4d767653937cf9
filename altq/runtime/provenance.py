"""Provenance of a result: options, code, versions, machine, time, memory and inputs, written beside or into it."""

import os
import platform
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altq.runtime.code_hash import code_hash
from altq.runtime.cores import usable_cores
from altq.runtime.documents import Record, read_described
from altq.runtime.files import sha256, write_json
from altq.runtime.gpu import driver_version
from altq.runtime.resume import fingerprint_of

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "altq", "torch", "transformers", "tokenizers", "safetensors", "datasets", "geoopt", "gguf", "lm-eval", "numpy",
    "pandas", "pyarrow", "matplotlib", "snakemake",
)  # fmt: skip
FILE_NAME = "provenance.json"
WORKFLOW_NAME = "results"
"""The folder below which the workflow keeps results, by a name that records have in common on every disk."""

ELSEWHERE = "elsewhere-"
"""So begins the name of an input that was not below the working directory; its hash follows."""

START = time.monotonic()


def provenance(
    command: str, options: Mapping[str, Any], inputs: Iterable[str | Path], device: "torch.device | None" = None
) -> dict[str, Any]:
    """The record of this process, and under "upstream" the records of everything that led to its inputs, by path.

    options: what the command was asked to do. inputs: files, or folders of a model, corpus, bank, checkpoint and so
    on, recorded as `recorded_path` has them. device: that it computed on, for what computes with tensors. Times are
    seconds, memory is bytes at its peak.
    """
    hashes: dict[str, str] = {}
    upstream: dict[str, Any] = {}
    for path in map(Path, inputs):
        name = recorded_path(path)
        hashes[name] = _hash_of(path)
        record = dict(read_record(path))
        upstream |= record.pop("upstream", {})
        if note_of(path).name == FILE_NAME:
            # Of a folder whose own record, hashed above, has them.
            record["fingerprint"] = fingerprint_of(record.pop("files", {}))
        upstream[name] = record
    return {
        "command": command,
        "options": dict(options),
        "code": code_hash(command),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": _machine() | (_device(device) if device else {}),
        "seconds": round(time.monotonic() - START, 3),
        "processor_seconds": round(time.process_time(), 3),
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "inputs": hashes,
        "upstream": upstream,
    }


def recorded_path(path: str | Path) -> str:
    """Name an input as records do, which are published: without the folders of somebody's disk.

    Below the working directory it is the path from there. Any other is its name, or its path from `results` on, below a
    folder that says so and has its hash: two inputs of one name stay two.
    """
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - links keep their names
    for place, start in ((absolute, Path.cwd()), (absolute.resolve(), Path.cwd().resolve())):
        if place.is_relative_to(start) and place != start:
            return place.relative_to(start).as_posix()
    parts = absolute.parts
    last = len(parts) - 1
    first = max((i for i, part in enumerate(parts[:-1]) if part == WORKFLOW_NAME), default=last)
    return "/".join((f"{ELSEWHERE}{_hash_of(absolute)[:12]}", *parts[first:]))


def write_provenance(folder: str | Path, record: Mapping[str, Any]) -> None:
    """Write a record beside the results of a folder, with the sha256 of each of its files."""
    paths = (path for path in sorted(Path(folder).iterdir()) if path.is_file() and not path.name.startswith("."))
    files = {path.name: sha256(path) for path in paths if path.name != FILE_NAME}
    write_json(Path(folder) / FILE_NAME, {**record, "files": files})


def read_record(path: str | Path) -> dict[str, Any]:
    """Read the record of a file or folder; empty if it has none."""
    note = note_of(Path(path))
    if note.suffix != ".json" or not note.is_file():
        return {}
    content = read_described(note, _RecordFile, "make it again").model_dump(exclude_unset=True)
    return content.get("provenance", content if note != Path(path) else {})


class _Content(Record):
    """The keys of a record that are read."""

    command: str = ""
    options: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    upstream: dict[str, dict[str, Any]] = {}


class _RecordFile(_Content):
    """A record, or a result that has its record in it."""

    provenance: _Content = _Content()


def note_of(path: Path) -> Path:
    """The file that holds the record of `path`: itself, or the one beside it; ValueError for a folder without one."""
    if not path.is_dir():
        return path.with_suffix(".json") if path.suffix in (".npy", ".parquet") else path
    notes = [path / name for name in (FILE_NAME, "source.json") if (path / name).is_file()]
    if not notes:
        raise ValueError(f"{path} has neither {FILE_NAME} nor source.json: it is not complete; make it again")
    return notes[0]


def _hash_of(path: Path) -> str:
    """The sha256 of a file, or of the record of a folder."""
    return sha256(note_of(path) if path.is_dir() else path)


@cache
def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            # Of a stage's own environment, or altq run from its source folder.
            continue
    return versions


def _machine() -> dict[str, Any]:
    machine = {"system": platform.platform(), "processor": _processor(), "processors": os.cpu_count()}
    machine["threads"] = int(os.environ.get("OMP_NUM_THREADS") or usable_cores())
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        machine["accelerator"] = torch.cuda.get_device_name()
        machine["accelerator_peak_memory"] = torch.cuda.max_memory_allocated()
        machine["driver"] = driver_version()
    return machine


def _device(device: "torch.device") -> dict[str, str]:
    """The kind of device, and the precision of its products."""
    from altq.runtime.precision import precision_of

    return {"device": device.type, "precision": precision_of(device)}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
