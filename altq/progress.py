"""Progress bars in a log: a line for each update, at most one every few seconds."""

import os
from typing import TextIO

SECONDS_BETWEEN_LINES = 5


class LinesFromBars:
    """Stands for a stream that is no terminal, where a bar that redraws itself would be one endless line.

    Made before tqdm is imported, which reads its defaults from the environment.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._after_bar = False
        os.environ.setdefault("TQDM_MININTERVAL", str(SECONDS_BETWEEN_LINES))
        os.environ.setdefault("TQDM_NCOLS", "100")

    def write(self, text: str) -> None:
        """Write `text`; what begins with a carriage return is a bar and becomes a line of its own."""
        is_bar = text.startswith("\r")
        if is_bar:
            text = text.strip() + "\n" if text.strip() else ""
        elif self._after_bar and text == "\n":
            text = ""
        self._after_bar = is_bar
        self._stream.write(text)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)
