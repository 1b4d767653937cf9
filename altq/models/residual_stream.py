"""The residual stream of all windows on disk, while a model is run over them block by block.

What enters the next step is kept, with how far the run is, so that one that was stopped goes on at that step.
"""

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from altq.runtime.files import read_json, require_space, write_json
from altq.runtime.tensor_files import read_hidden_states, written_hidden_states

PROGRESS_FILE = "progress.json"


class ResidualStream:
    """Hidden states [windows, length, hidden] that enter step `step`, in a folder of their own.

    notes: plain values that are kept along with them. A folder that was made for another fingerprint is begun anew:
    `start` fills in what enters step 0.
    """

    def __init__(
        self, folder: str | Path, fingerprint: str, shape: tuple[int, int, int], start: Callable[[Tensor], None]
    ) -> None:
        self.folder = Path(folder)
        self._fingerprint = fingerprint
        progress = self._read_progress()
        self.step: int = progress.get("step", 0)
        self.notes: dict[str, Any] = progress.get("notes", {})
        if not progress:
            self.discard()
            require_space(self.folder, 2 * 4 * math.prod(shape))
            with self._writing(0, shape) as outputs:
                start(outputs)

    @property
    def states(self) -> Tensor:
        """What enters the next step, read lazily; changes to it are not kept."""
        return read_hidden_states(self._path(self.step))

    @contextmanager
    def advance(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The states that enter this step, and those to be filled in that leave it, which then take their place."""
        inputs = self.states
        with self._writing(self.step + 1, tuple(inputs.shape)) as outputs:
            yield inputs, outputs
        self._path(self.step - 1).unlink(missing_ok=True)

    @contextmanager
    def _writing(self, step: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
        with written_hidden_states(self._path(step), shape) as outputs:
            yield outputs
        self.step = step
        progress = {"fingerprint": self._fingerprint, "step": step, "notes": self.notes}
        write_json(self.folder / PROGRESS_FILE, progress)

    def _read_progress(self) -> dict[str, Any]:
        path = self.folder / PROGRESS_FILE
        progress = read_json(path) if path.is_file() else {}
        known = progress.get("fingerprint") == self._fingerprint and self._path(progress["step"]).is_file()
        return progress if known else {}

    def _path(self, step: int) -> Path:
        return self.folder / f"state_{step:03d}.npy"

    def discard(self) -> None:
        """Remove it all: what it was for is written."""
        shutil.rmtree(self.folder, ignore_errors=True)
