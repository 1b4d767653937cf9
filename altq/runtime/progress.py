"""Progress of long work: a bar on a terminal; in a log, a line for each update, at most one every few seconds."""

import ctypes
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO, TypeVar

from altq.runtime.stopping import stop_if_asked

SECONDS_BETWEEN_LINES = 5
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"

Item = TypeVar("Item")


def progress(items: Sequence[Item], description: str) -> Iterator[Item]:
    """Iterate over units of work with a progress bar and the time left; SIGTERM ends the loop between two units.

    Free memory is returned to the system after each unit: glibc would keep it, in pieces.
    """
    from tqdm import tqdm

    give_back = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)
    for item in tqdm(items, desc=description, bar_format=BAR):
        yield item
        give_back(0)
        stop_if_asked()


class LinesFromBars:
    """Wrapper of a stream that is no terminal, where a bar that redraws itself would be one endless line.

    Made before tqdm is imported, which reads its defaults from the environment.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._after_bar = False
        os.environ.setdefault("TQDM_MININTERVAL", str(SECONDS_BETWEEN_LINES))
        os.environ.setdefault("TQDM_NCOLS", "100")

    def write(self, text: str, /) -> int:
        """Write `text` and return its length; what begins with a carriage return is a bar and becomes a line of its own."""
        length, is_bar = len(text), text.startswith("\r")
        if is_bar:
            text = text.strip() + "\n" if text.strip() else ""
        elif self._after_bar and text == "\n":
            text = ""
        self._after_bar = is_bar
        self._stream.write(text)
        return length

    def flush(self) -> None:
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Messages(logging.Handler):
    """Messages of altq's loggers on standard error, above a bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "altq: warning: " if record.levelno >= logging.WARNING else ""
        message = prefix + record.getMessage()
        if sys.stderr.isatty():
            from tqdm import tqdm

            tqdm.write(message, file=sys.stderr)
        else:
            print(message, file=sys.stderr)
