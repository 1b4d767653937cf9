"""SIGTERM, which schedulers send before SIGKILL: a stage stops where its unit of work ends, or 8 seconds later in it.

A unit is kept when it ends, so that the same command goes on from there; one that is left in its middle is done again.
SIGINT (Ctrl-C) stops at once. It is remembered besides, since a library that is being imported may turn
KeyboardInterrupt into another error, or drop it.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

GRACE_SECONDS = 8

_is_asked = False
_is_interrupted = False


class Terminated(KeyboardInterrupt):
    """The process was asked to stop, and does."""


@contextmanager
def signals_heeded() -> Iterator[None]:
    """While this lasts SIGTERM is a request, which `stop_if_asked` follows between two units, and SIGINT is remembered.

    SIGINT stays ignored where it is, as in what a shell starts in the background.
    """
    global _is_asked, _is_interrupted
    _is_asked = _is_interrupted = False
    handlers = {signal.SIGTERM: _ask, signal.SIGALRM: _stop}
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        handlers[signal.SIGINT] = _interrupt
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_if_asked() -> None:
    """Raise Terminated where SIGTERM has come, KeyboardInterrupt where SIGINT has and somebody dropped it."""
    if _is_asked:
        _stop()
    if _is_interrupted:
        raise KeyboardInterrupt


def is_interrupted() -> bool:
    """Whether SIGINT has come, whatever became of its KeyboardInterrupt."""
    return _is_interrupted


def _ask(*_: object) -> None:
    global _is_asked
    _is_asked = True
    signal.alarm(GRACE_SECONDS)


def _stop(*_: object) -> None:
    signal.alarm(0)
    raise Terminated


def _interrupt(*_: object) -> None:
    global _is_interrupted
    _is_interrupted = True
    raise KeyboardInterrupt
