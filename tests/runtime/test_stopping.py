"""SIGTERM ends a run between two units, or within one that takes too long; what was before is put back."""

import os
import signal
import time

import pytest

from altq.runtime import stopping
from altq.runtime.progress import progress
from altq.runtime.stopping import Terminated, signals_heeded


def test_the_unit_at_work_is_finished():
    finished = []
    with signals_heeded(), pytest.raises(Terminated):
        for unit in progress(range(5), "units"):
            if unit == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            finished.append(unit)
    assert finished == [0, 1]


def test_a_long_unit_is_left(monkeypatch):
    monkeypatch.setattr(stopping, "GRACE_SECONDS", 1)
    began = time.monotonic()
    with signals_heeded(), pytest.raises(Terminated):
        for _ in progress(range(5), "units"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
    assert 0.9 < time.monotonic() - began < 30


def test_without_sigterm_nothing_happens():
    with signals_heeded():
        assert list(progress(range(5), "units")) == [0, 1, 2, 3, 4]


def test_handlers_and_the_request_do_not_outlive_it():
    before = signal.getsignal(signal.SIGTERM)
    with signals_heeded(), pytest.raises(Terminated):
        os.kill(os.getpid(), signal.SIGTERM)
        stopping.stop_if_asked()
    assert signal.getsignal(signal.SIGTERM) == before and signal.alarm(0) == 0
    with signals_heeded():
        stopping.stop_if_asked()
