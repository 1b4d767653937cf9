"""Looks at values on a device, for which the host waits: put off to the end of a step, where one wait does for all."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

Judge = Callable[[list[float]], None]
"""Raises for values that are wrong."""

_put_off: ContextVar[list[tuple[Tensor, Judge]] | None] = ContextVar("put_off", default=None)


def look(values: Tensor, judge: Judge) -> None:
    """Let `judge` see some values of any shape, flat: at once, or where `looks_put_off` ends.

    On the meta device, where operations are counted, there are no values to see.
    """
    if values.is_meta:
        return
    pending = _put_off.get()
    if pending is None:
        judge(values.flatten().tolist())
    else:
        pending.append((values.detach().flatten(), judge))


@contextmanager
def looks_put_off() -> Iterator[None]:
    """Put looks off to the end, where they are taken in order: the first that finds something wrong raises.

    What is computed between a wrong value and the end is wrong, too, and is to be thrown away. Where the work itself
    raises, nothing is looked at any more.
    """
    pending: list[tuple[Tensor, Judge]] = []
    token = _put_off.set(pending)
    try:
        yield
    finally:
        _put_off.reset(token)
    if pending:
        # float64 holds float32 and the counts of LAPACK exactly.
        parts = [values.double() for values, _ in pending]
        found = torch.cat(parts).tolist()
        for part, (_, judge) in zip(parts, pending, strict=True):
            judge(found[: len(part)])
            del found[: len(part)]
