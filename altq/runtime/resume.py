"""Resuming after a stop: finished units of work on disk, each with a fingerprint of all its inputs.

A unit that was made from anything else, or cannot be read, counts as not made. So the same command, run again after
`kill -9`, loses at most the unit that it was in and ends with the same bytes.
"""

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from altq.runtime.failures import lacks_memory
from altq.runtime.files import read_json, sha256, write_json

log = logging.getLogger(__name__)


def fingerprint_of(content: Mapping[str, Any]) -> str:
    """Hexadecimal hash of plain content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_unit(path: str | Path, fingerprint: str, unit: Mapping[str, Any]) -> None:
    """Write the plain values that a unit of work returned, by name, with its fingerprint."""
    write_json(path, {**unit, "fingerprint": fingerprint})


def read_unit(path: str | Path, fingerprint: str) -> dict[str, Any] | None:
    """Read a finished unit; None if none has this fingerprint, with a warning for one that is unreadable."""
    if not Path(path).is_file():
        return None
    try:
        unit = read_json(path)
        stored = unit.pop("fingerprint")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        log.warning("%s cannot be read (%s: %s): begun anew from there", path, type(error).__name__, error)
        return None
    return unit if stored == fingerprint else None


def warn_of_mixture(devices: Iterable[str], what: str) -> None:
    """Say where units of one result come from different kinds of devices, which round differently."""
    counts = Counter(devices)
    if len(counts) > 1:
        made = ", ".join(f"{count} on {device}" for device, count in sorted(counts.items()))
        log.warning("%s: units are made on different devices (%s), which round differently", what, made)


class Scratch:
    """A folder of the units of one run, which follow one another and share a fingerprint.

    units: the content of those that are finished. files: the sha256 of the files that they wrote beside the folder, by
    name; a unit counts as finished while these are unchanged. Inputs of the next unit may lie in the folder. As a
    context it is dropped at the end, and where the work fails: what failed because of its data would fail again with
    them, even when the data are repaired. A stop, a full disk or lack of memory leaves it.

    device: the kind on which this run computes. It is no part of the fingerprint: a run goes on from what another device
    made, says so, and keeps which made what.
    """

    def __init__(self, folder: str | Path, fingerprint: str, device: str = "cpu") -> None:
        self.folder, self.fingerprint, self.device = Path(folder), fingerprint, device
        self.units: list[Any] = []
        self.files: dict[str, str] = {}
        self._devices: list[str] = []
        while (unit := read_unit(self._path(), fingerprint)) is not None and self._is_whole(unit["files"]):
            self._append(unit)
        if self.units:
            log.info("going on after %d finished units in %s", len(self.units), self.folder)
            warn_of_mixture([*self._devices, device], str(self.folder))
        else:
            self.drop()
        for path in self.folder.glob("unit_*.json"):
            if path.name >= self._path().name:
                path.unlink()

    @classmethod
    def beside(cls, output: Path, fingerprint: str, device: str = "cpu") -> Self:
        """The folder beside a file that a run is to write: hidden, and so nobody's own."""
        return cls(output.with_name(f".{output.name}.scratch"), fingerprint, device)

    @property
    def devices(self) -> list[str]:
        """The devices that units were made on, in order, each where it took over; the last is this run's."""
        return [device for device, _ in groupby([*self._devices, self.device])]

    def add(self, content: Any, files: Sequence[Path] = ()) -> None:
        """Store the content of the next unit, once all its files are written, `files` beside this folder among them."""
        unit = {"content": content, "files": {path.name: sha256(path) for path in files}, "device": self.device}
        write_unit(self._path(), self.fingerprint, unit)
        self._append(unit)

    def drop(self) -> None:
        """Remove the folder with all its units."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.units, self.files, self._devices = [], {}, []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if kind is None or (
            isinstance(error, Exception) and not isinstance(error, OSError) and not lacks_memory(error)
        ):
            self.drop()

    def _path(self) -> Path:
        """The file of the next unit."""
        return self.folder / f"unit_{len(self.units):06d}.json"

    def _append(self, unit: dict[str, Any]) -> None:
        self.units.append(unit["content"])
        self.files |= unit["files"]
        self._devices.append(unit["device"])

    def _is_whole(self, files: dict[str, str]) -> bool:
        for name, digest in files.items():
            path = self.folder.parent / name
            if not path.is_file() or sha256(path) != digest:
                log.warning("%s is not what was written: begun anew from there", path)
                return False
        return True
