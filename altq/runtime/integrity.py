"""Integrity of results: their files and inputs against the hashes in their records, and truncated files."""

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from altq.runtime.files import read_json, sha256
from altq.runtime.provenance import ELSEWHERE, FILE_NAME, WORKFLOW_NAME, note_of

NOT_RESULTS = ("logs", "benchmarks")

COPIED = "tokenizer"
"""So begin the names of files that every checkpoint has a copy of: megabytes of JSON, of which only the size is looked
at."""

COMPLETE = {"states": "states.json", "bank": "index.json", "checkpoints": "quantization.json", "models": "source.json"}
"""The file that a stage writes last into its folders, by the name of the folder under results/."""


@dataclass(frozen=True)
class Finding:
    """A fault in a file or folder of results; paths are relative to the workflow's directory.

    is_elsewhere: nothing is known to be wrong with it, but something that it was made from is not where it was.
    """

    path: str
    problem: str
    is_elsewhere: bool = False


class Results:
    """The results folder of a workflow, every file of it read at most once."""

    def __init__(self, folder: str | Path) -> None:
        if not Path(folder).is_dir():
            raise ValueError(f"{folder} is no folder; give the results/ of a workflow")
        # Not resolved: `results` may be a link, and what is recorded is recorded by its own name.
        self.folder = Path(os.path.normpath(Path(folder).absolute()))
        self.hash_of = cache(sha256)

    def findings(self) -> list[Finding]:
        """Every fault: files that are cut off or left over, inputs that changed, and results that rest on such."""
        direct = [*self._damaged(), *self._unlike_their_hashes(), *self._made_from_others()]
        wrong = {finding.path for finding in direct if not finding.is_elsewhere}
        resting = [finding for finding in self._resting_on(wrong) if finding.path not in wrong]
        return sorted(set(direct), key=lambda f: (f.path, f.problem)) + resting

    @cache
    def records(self) -> dict[str, dict[str, Any]]:
        """The record of every result that has one, by its path; of a folder by the folder's."""
        records = {}
        for path in self._files(".json"):
            content = self._json(path)
            if path.name == FILE_NAME:
                records[self._name(path.parent)] = content
            elif isinstance(content, dict) and isinstance(content.get("provenance"), dict):
                records[self._name(path)] = content["provenance"]
        return {name: record for name, record in records.items() if record}

    def not_looked_at(self) -> list[str]:
        """Inputs that were elsewhere when they were read, of which records have the name and the hash but no place."""
        inputs = {path for record in self.records().values() for path in record.get("inputs", {})}
        return sorted(path for path in inputs if self._is_out_of_sight(path))

    def _damaged(self) -> Iterator[Finding]:
        for path in self._scratch():
            yield Finding(self._name(path), "left over by a run that was stopped; run it again, or remove the folder")
        for path in self._files(".partial"):
            yield Finding(self._name(path), "left over by a process that was killed; nothing reads it, remove it")
        for suffix, check in CHECKS.items():
            for path in self._files(suffix):
                problem = check(path) if suffix != ".json" or self._json(path) is None else None
                if problem:
                    yield Finding(self._name(self._result_of(path)), f"{path.name} {problem}")
        for stage, last in COMPLETE.items():
            for folder in self._result_folders(stage):
                if not (folder / last).is_file():
                    yield Finding(self._name(folder), f"not complete: {last}, which is written last, is not there")

    def _result_folders(self, stage: str) -> set[Path]:
        """The folders of a stage that hold files, but for hidden ones, in which fetching goes on."""
        files = (path for path in _walk(self.folder / stage) if path.is_file() and not _is_scratch(path))
        return {p.parent for p in files if not any(part.startswith(".") for part in p.relative_to(self.folder).parts)}

    def _unlike_their_hashes(self) -> Iterator[Finding]:
        """Files that differ from the record beside them."""
        for path in self._files("source.json"):
            for name, digest in (self._json(path) or {}).get("files", {}).items():
                yield from self._compare(self._name(path.parent), path.parent / name, digest)
        for name, record in self.records().items():
            for file, digest in record.get("files", {}).items():
                yield from self._compare(name, self._place(name) / file, digest)

    def _compare(self, result: str, file: Path, digest: str) -> Iterator[Finding]:
        if not file.is_file():
            yield Finding(result, f"{file.name} is missing")
        elif self.hash_of(file) != digest:
            yield Finding(result, f"{file.name} has another sha256 than was written down")

    def _made_from_others(self) -> Iterator[Finding]:
        """Results whose inputs are missing or have changed."""
        for name, record in self.records().items():
            for path, digest in record.get("inputs", {}).items():
                if self._is_out_of_sight(path):
                    continue
                place = self._place(path)
                try:
                    file = note_of(place) if place.is_dir() else place
                except ValueError:
                    yield Finding(name, f"its input {path} is not complete")
                    continue
                if not file.is_file():
                    yield Finding(name, f"its input {path} is missing", is_elsewhere=not self._is_inside(place))
                elif self.hash_of(file) != digest:
                    yield Finding(name, f"its input {path} has changed since")

    def _resting_on(self, wrong: set[str]) -> list[Finding]:
        """Results whose own inputs are unchanged but rest, directly or not, on a faulty one."""
        reads = {
            name: [
                self._name(place) for path in record.get("inputs", {}) if self._is_inside(place := self._place(path))
            ]
            for name, record in self.records().items()
        }
        tainted, findings = set(wrong), []
        while new := [
            Finding(name, f"rests on {path}")
            for name, inputs in sorted(reads.items())
            if name not in tainted and (path := next((p for p in inputs if p in tainted), None))
        ]:
            findings += new
            tainted |= {finding.path for finding in new}
        return findings

    @cache
    def _all_files(self) -> tuple[Path, ...]:
        files = (path for path in _walk(self.folder) if path.relative_to(self.folder).parts[0] not in NOT_RESULTS)
        return tuple(path for path in sorted(files) if not path.name.startswith(COPIED) and not _is_scratch(path))

    def _scratch(self) -> list[Path]:
        return sorted({path.parent for path in _walk(self.folder) if _is_scratch(path)})

    def _files(self, end: str) -> Iterator[Path]:
        return (path for path in self._all_files() if path.name.endswith(end))

    @cache
    def _json(self, path: Path) -> Any:
        """The content of a file; None for one that is no JSON, which `_damaged` reports."""
        try:
            return read_json(path)
        except (ValueError, OSError):
            return None

    def _result_of(self, path: Path) -> Path:
        """Result that a file belongs to: its folder if that has a record, the file itself otherwise."""
        return path.parent if (path.parent / FILE_NAME).is_file() and path.name != FILE_NAME else path

    def _name(self, place: Path) -> str:
        """A place in this folder as findings name it."""
        return (Path(self.folder.name or WORKFLOW_NAME) / place.relative_to(self.folder)).as_posix()

    def _is_inside(self, place: Path) -> bool:
        return place.is_relative_to(self.folder)

    def _is_out_of_sight(self, recorded: str) -> bool:
        return recorded.startswith(ELSEWHERE) and not self._is_inside(self._place(recorded))

    def _place(self, recorded: str) -> Path:
        """Present place of a path in a record: in this folder if any of the folder's names leads there.

        Records are seen from some folder, by their path from `results` on, or through a link, and those of older
        versions absolute; and results may have been moved since.
        """
        path = Path(os.path.normpath(recorded))
        names = {WORKFLOW_NAME, self.folder.name, self.folder.resolve().name}
        if not path.is_absolute() and path.parts[0] in names:
            return self.folder.joinpath(*path.parts[1:])
        place = Path(os.path.normpath(self.folder.parent / path))
        if place.exists():
            real = place.resolve()
            inside = real.is_relative_to(self.folder.resolve())
            return self.folder / real.relative_to(self.folder.resolve()) if inside else place
        candidates = [self.folder.joinpath(*path.parts[i + 1 :]) for i, part in enumerate(path.parts) if part in names]
        return next((candidate for candidate in candidates if candidate.exists()), place)


def _walk(folder: Path) -> Iterator[Path]:
    """Every file under a folder, through links to folders, each real folder once; broken links, too."""
    visited = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        yield from (Path(parent, name) for name in names)


def _is_scratch(path: Path) -> bool:
    """Whether a file belongs to the scratch folder from which a stopped run resumes."""
    return path.parent.suffix == ".scratch"


def _json_problem(path: Path) -> str | None:
    try:
        read_json(path)
    except (ValueError, OSError) as error:
        return f"cannot be read as JSON ({error})"
    return None


def _safetensors_problem(path: Path) -> str | None:
    """Problem of a safetensors file whose length differs from its header's; None for a sound one."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError, struct.error) as error:
        return f"has no header that can be read ({type(error).__name__})"
    size_by_header, size = 8 + length + max(ends, default=0), path.stat().st_size
    return None if size == size_by_header else f"is cut off: {size:,} bytes of {size_by_header:,}"


def _array_problem(path: Path) -> str | None:
    import numpy as np

    try:
        np.load(path, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:
        return f"cannot be read ({error})"
    return None


CHECKS = {".json": _json_problem, ".safetensors": _safetensors_problem, ".npy": _array_problem}
"""Checks that a file of each kind is complete, without reading all of it."""


def to_text(findings: list[Finding]) -> str:
    """The findings as a table."""
    width = min(100, max((len(finding.path) for finding in findings), default=0))
    return "".join(f"{finding.path.ljust(width)}  {finding.problem}\n" for finding in findings)
