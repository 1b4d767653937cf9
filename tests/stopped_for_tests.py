"""Stopping a run between two of its units of work, to see that it goes on from there."""

from unittest.mock import call


class Stopped(KeyboardInterrupt):
    """What stops it, as SIGINT and SIGTERM do."""


def stop_after(monkeypatch, owner, name, finished):
    """Let `owner.name` stop the run, once, when it has been called `finished` times; the arguments of other calls."""
    original, calls, stops = getattr(owner, name), [], [True]

    def stopping(*arguments, **options):
        if stops and len(calls) == finished:
            stops.clear()
            raise Stopped
        calls.append(call(*arguments, **options))
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, stopping)
    return calls
