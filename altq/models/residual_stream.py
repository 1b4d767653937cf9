"""The residual stream of all windows, while a model is run over them block by block: in memory, spilled at intervals."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from altq.runtime.device import CPU, is_pinned_for
from altq.runtime.failures import lacks_memory
from altq.runtime.files import require_space
from altq.runtime.memory import available_memory
from altq.runtime.resume import Scratch
from altq.runtime.tensor_files import read_hidden_states, require_finite, written_hidden_states

log = logging.getLogger(__name__)

SHARE_OF_MEMORY = 2 / 3
"""States before and after a step are kept in memory where they take so much of what is available, or less."""

SECONDS_BETWEEN_SPILLS = 60.0
SHARE_OF_SPILLING = 0.05
"""Spilling takes so much of the time at most: a large stream is spilled less often."""


class ResidualStream:
    """Hidden states [windows, length, hidden] that enter the next step.

    They are in memory where they fit there, and are spilled to a scratch folder at intervals; otherwise they are in its
    files, one for each step. A unit of the scratch is what was done since the one before it, and the files of the steps.
    As a context it spills where it is interrupted or memory ends, so that only the step that was going on is lost then;
    a process that is killed loses what it did since it spilled last. Where the states of a stopped run cannot be read,
    it is begun anew, by `start`, which fills in the states that enter the first step.
    device: of what runs, for whose copies the memory is made.
    """

    def __init__(
        self, scratch: Scratch, shape: tuple[int, int, int], start: Callable[[Tensor], Any], device: torch.device = CPU
    ) -> None:
        self.scratch, self.shape = scratch, shape
        size = 4 * math.prod(shape)
        self._in_memory = 2 * size <= SHARE_OF_MEMORY * available_memory()
        self._noted = [note for unit in scratch.units for note in unit]
        self._pending: list[Any] = []
        self._files: list[Path] = []
        stored = self._read() if scratch.units else None
        if stored is None:
            scratch.drop()
            self._noted = []
            require_space(scratch.folder, 2 * size)
        if self._in_memory:
            self._states, self._next = (torch.empty(shape, pin_memory=is_pinned_for(device)) for _ in range(2))
            start(self._states) if stored is None else self._states.copy_(stored)
        elif stored is None:
            with written_hidden_states(self._path(0), shape) as outputs:
                start(outputs)
            self._add_unit()
            self._states = read_hidden_states(self._path(0))
        else:
            self._states = stored
        self._spilled, self._seconds_of_spilling = time.monotonic(), 0.0

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return len(self._noted) + len(self._pending)

    @property
    def notes(self) -> list[Any]:
        """Plain values that each finished step returned, in order."""
        return self._noted + self._pending

    @property
    def states(self) -> Tensor:
        """Hidden states [windows, length, hidden] that enter the next step, to be read."""
        return self._states

    def advance(self, step: Callable[[Tensor, Tensor], Any], files: Sequence[Path] = ()) -> None:
        """Take a step: it reads the states that enter, fills in those that leave, and returns plain values to keep.

        files: those that the step writes beside the scratch folder. ValueError for states that are not finite.
        """
        path = self._path(self.step + 1)
        if self._in_memory:
            note = step(self._states, self._next)
            for index, window in enumerate(self._next):
                require_finite(window, path, f"window {index} of the hidden states")
            self._states, self._next = self._next, self._states
        else:
            with written_hidden_states(path, self.shape) as outputs:
                note = step(self._states, outputs)
            self._states = read_hidden_states(path)
        self._pending.append(note)
        self._files += files
        if not self._in_memory:
            self._add_unit()
        elif time.monotonic() - self._spilled >= max(
            SECONDS_BETWEEN_SPILLS, self._seconds_of_spilling / SHARE_OF_SPILLING
        ):
            self.spill()

    def spill(self) -> None:
        """Write the states that enter the next step, from which a run that is stopped then goes on."""
        began = time.monotonic()
        with written_hidden_states(self._path(self.step), self.shape) as outputs:
            outputs.copy_(self._states)
        self._add_unit()
        self._spilled = time.monotonic()
        self._seconds_of_spilling = self._spilled - began

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        is_stopped = error is not None and (isinstance(error, KeyboardInterrupt) or lacks_memory(error))
        if is_stopped and self._in_memory and self._pending:
            self.spill()

    def _add_unit(self) -> None:
        """Let the steps since the last unit count as finished: the states behind them are written."""
        self.scratch.add(self._pending, self._files)
        self._noted += self._pending
        self._pending, self._files = [], []
        for path in self.scratch.folder.glob("state_*.npy"):
            if path != self._path(self.step):
                path.unlink()

    def _read(self) -> Tensor | None:
        """The states of a stopped run, where they are whole."""
        path = self._path(self.step)
        try:
            states = read_hidden_states(path)
            if tuple(states.shape) == self.shape:
                return states
        except (OSError, ValueError, EOFError) as error:
            log.warning("%s cannot be read (%s): begun anew", path, error)
        return None

    def _path(self, step: int) -> Path:
        return self.scratch.folder / f"state_{step:03d}.npy"
