"""SIGTERM, which schedulers send before SIGKILL: a stage stops where its unit of work ends, or 8 seconds later in it.

A unit is kept when it ends, so that the same command goes on from there; one that is left in its middle is done again.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

GRACE_SECONDS = 8

_is_asked = False


class Terminated(KeyboardInterrupt):
    """The process was asked to stop, and does."""


@contextmanager
def sigterm_heeded() -> Iterator[None]:
    """While this lasts SIGTERM is a request, which `stop_if_asked` follows between two units."""
    global _is_asked
    _is_asked = False
    before = signal.signal(signal.SIGTERM, _ask), signal.signal(signal.SIGALRM, _stop)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGALRM, before[1])


def stop_if_asked() -> None:
    """Raise Terminated where SIGTERM has come."""
    if _is_asked:
        _stop()


def _ask(*_: object) -> None:
    global _is_asked
    _is_asked = True
    signal.alarm(GRACE_SECONDS)


def _stop(*_: object) -> None:
    signal.alarm(0)
    raise Terminated
