"""Calibration windows: those that options ask for, and those that there are. Imports nothing heavy.

What is asked for and cannot be had is refused: a table would say that it was had.
"""

from typing import Protocol


class AsksForWindows(Protocol):
    """Options of a stage that reads calibration windows."""

    @property
    def calibration_windows(self) -> dict[str, int]:
        """How many windows each option asks for, by its name; without those that ask for nothing as things stand."""


def windows_beyond(options: AsksForWindows, num_windows: int) -> dict[str, int]:
    """The options that ask for more windows than there are, as `calibration_windows`."""
    return {name: asked for name, asked in options.calibration_windows.items() if asked > num_windows}


def require_windows(options: AsksForWindows, num_windows: int) -> None:
    """ValueError names every option that asks for more windows than the states have."""
    beyond = windows_beyond(options, num_windows)
    if beyond:
        asked = ", ".join(f"{name} is {count}" for name, count in beyond.items())
        raise ValueError(f"{asked}, but the states have {num_windows} windows; ask for fewer, or record more")
