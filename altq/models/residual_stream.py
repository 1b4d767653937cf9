"""The residual stream of all windows on disk, while a model is run over them block by block."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from altq.runtime.files import require_space
from altq.runtime.resume import Scratch
from altq.runtime.tensor_files import read_hidden_states, written_hidden_states

log = logging.getLogger(__name__)


class ResidualStream:
    """Hidden states [windows, length, hidden] that enter the next step, kept in a scratch folder.

    A unit of the scratch is a step; the first is what `start` fills in. Where the states of a stopped run cannot be
    read, it is begun anew.
    """

    def __init__(self, scratch: Scratch, shape: tuple[int, int, int], start: Callable[[Tensor], Any]) -> None:
        self.scratch = scratch
        if not self._is_whole(shape):
            scratch.drop()
            require_space(scratch.folder, 2 * 4 * math.prod(shape))
            with written_hidden_states(self._path(0), shape) as outputs:
                start(outputs)
            scratch.add({})

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return len(self.scratch.units) - 1

    @property
    def notes(self) -> list[Any]:
        """Plain values that each finished step returned, in order."""
        return self.scratch.units[1:]

    @property
    def states(self) -> Tensor:
        """Hidden states [windows, length, hidden] that enter the next step, read lazily; changes are not kept."""
        return read_hidden_states(self._path(self.step))

    def advance(self, step: Callable[[Tensor, Tensor], Any], files: Sequence[Path] = ()) -> None:
        """Take a step: it reads the states that enter, fills in those that leave, and returns plain values to keep.

        files: those that the step writes beside the scratch folder.
        """
        inputs = self.states
        with written_hidden_states(self._path(self.step + 1), tuple(inputs.shape)) as outputs:
            note = step(inputs, outputs)
        self.scratch.add(note, files)
        self._path(self.step - 1).unlink(missing_ok=True)

    def _is_whole(self, shape: tuple[int, int, int]) -> bool:
        if self.step < 0:
            return False
        try:
            return tuple(self.states.shape) == shape
        except (OSError, ValueError, EOFError) as error:
            log.warning("%s cannot be read (%s): begun anew", self._path(self.step), error)
            return False

    def _path(self, step: int) -> Path:
        return self.scratch.folder / f"state_{step:03d}.npy"
