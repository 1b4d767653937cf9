"""SIGTERM, which schedulers send before SIGKILL: a stage stops where its unit of work ends, or 8 seconds later in it.

A unit is kept when it ends, so that the same command resumes after it; an interrupted unit is done again.
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
    """Stop of a process by SIGTERM."""


@contextmanager
def signals_heeded() -> Iterator[None]:
    """Within this context SIGTERM sets a flag, on which `stop_if_asked` raises between units, and SIGINT is remembered.

    SIGINT stays ignored where it is, as in what a shell starts in the background.
    """
    global _is_asked, _is_interrupted
    _is_asked = _is_interrupted = False
    handlers = {signal.SIGTERM: _ask, signal.SIGALRM: _stop}
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        handlers[signal.SIGINT] = _interrupt
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        signal.alarm(0)
        for number, handler in previous.items():
            signal.signal(number, handler)
        _is_asked = _is_interrupted = False


def stop_if_asked() -> None:
    """Raise Terminated after SIGTERM, and KeyboardInterrupt after a SIGINT whose exception was dropped."""
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
