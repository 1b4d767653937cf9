"""The number of windows at work at once: where the memory of a GPU ends, it is halved, once."""

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

Result = TypeVar("Result")

REMEDY = "take a GPU with more memory, give a larger --gpu-memory, or ask for fewer or shorter windows"


class BatchSize:
    """How many windows one kind of work takes at once in this process: as many as are asked for, or half of that."""

    def __init__(self) -> None:
        self.is_halved = False

    def slices(self, num_windows: int, asked: int) -> Iterator[slice]:
        """Consecutive slices of at most `asked` windows; of at most half of that once it is halved."""
        size = max(1, asked // 2) if self.is_halved else asked
        return (slice(start, start + size) for start in range(0, num_windows, size))

    def fit(self, work: Callable[[], Result], name: str) -> Result:
        """The result of `work`, which is begun anew with the size halved where memory ends; it must allow for that.

        MemoryError, with the `name` of what was going on, where memory ends again.
        """
        try:
            return work()
        except torch.OutOfMemoryError as error:
            reason = str(error).partition("\n")[0]
            if self.is_halved:
                raise MemoryError(f"{name}: {reason}, with half as many windows at once, too; {REMEDY}") from error
        # Behind the clause: the error holds on to the tensors of all frames that it passed.
        self.is_halved = True
        log.warning("%s: %s; going on with half as many windows at once", name, reason)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return self.fit(work, name)
