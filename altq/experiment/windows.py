"""Windows of text: the token before them, and how many of them options may ask for. Imports nothing heavy.

An option that asks for more windows than exist is refused: a table would report the number in the option.
"""

from typing import Annotated, Literal, Protocol

from pydantic import Field

Bos = Literal["never", "document", "window"]
"""Where the token that begins a text (BOS) stands: nowhere, before the text of a split, or before each window."""

BOS_DESCRIPTION = (
    "where the token that begins a text stands: never, before the whole split (document), or before each window, which "
    "then has a token less of text; when absent as published evaluations of the model's family do, window for Gemma "
    "and never for others"
)

BosOption = Annotated[Bos | None, Field(description=BOS_DESCRIPTION)]


class WindowReader(Protocol):
    """Options of a stage that reads calibration windows."""

    @property
    def calibration_windows(self) -> dict[str, int]:
        """Number of windows that each option asks for, by its name; options without effect are left out."""


def windows_beyond(options: WindowReader, num_windows: int) -> dict[str, int]:
    """Options that ask for more than `num_windows` windows, by name, with the number that they ask for."""
    return {name: count for name, count in options.calibration_windows.items() if count > num_windows}


def require_windows(options: WindowReader, num_windows: int) -> None:
    """Raise ValueError, which names every option that asks for more windows than the states have."""
    beyond = windows_beyond(options, num_windows)
    if beyond:
        demands = ", ".join(f"{name} is {count}" for name, count in beyond.items())
        raise ValueError(f"{demands}, but the states have {num_windows} windows; ask for fewer, or record more")
