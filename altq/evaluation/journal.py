"""What a long run has finished, a line each in a file, so that a run that was stopped goes on from there."""

import json
import logging
import os
from pathlib import Path
from typing import Any

from altq.runtime.files import write_text

log = logging.getLogger(__name__)


class Journal:
    """Finished results of a run in their order: plain values, one for each unit of work.

    A journal with another fingerprint, of other inputs or code, begins anew; a line that a stop cut short is left out.
    """

    def __init__(self, path: str | Path, fingerprint: str) -> None:
        self.path = Path(path)
        self.finished: list[Any] = self._read(fingerprint)
        lines = [{"fingerprint": fingerprint}, *self.finished]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        if self.finished:
            log.info("going on after %d finished units in %s", len(self.finished), self.path)

    def _read(self, fingerprint: str) -> list[Any]:
        if not self.path.is_file():
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")[:-1]
        try:
            first, *finished = map(json.loads, lines)
        except ValueError:
            return []
        return finished if first == {"fingerprint": fingerprint} else []

    def add(self, result: Any) -> None:
        """Keep the result of the next unit; ValueError where it holds NaN or infinity."""
        line = json.dumps(result, allow_nan=False)
        self.finished.append(result)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Forget it all: what it was for is written."""
        self.path.unlink(missing_ok=True)
