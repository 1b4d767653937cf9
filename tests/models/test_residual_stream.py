"""The residual stream, in memory and on disk: what was finished is kept, what was not is done again."""

import itertools
import multiprocessing
import os
import random
import signal
import time

import pytest
import torch

from altq.models import residual_stream as module
from altq.models.residual_stream import ResidualStream
from altq.runtime.resume import Scratch

SHAPE = (3, 4, 5)


@pytest.fixture(params=["in memory", "on disk"])
def kept(request, monkeypatch):
    """Where the states are; in memory they are spilled after every step."""
    monkeypatch.setattr(module, "available_memory", lambda: 10**9 if request.param == "in memory" else 0)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_SPILLS", 0)
    monkeypatch.setattr(module, "SHARE_OF_SPILLING", float("inf"))
    return request.param


def begin(outputs):
    outputs.copy_(torch.arange(60.0).view(SHAPE))


def stream(folder, fingerprint="one", start=begin):
    return ResidualStream(Scratch(folder, fingerprint), SHAPE, start)


def step(of, note=0):
    def add(inputs, outputs):
        outputs.copy_(inputs + 1)
        return note

    of.advance(add)


def refuse(outputs):
    raise AssertionError("it begins anew")


def test_it_goes_on_after_the_last_finished_step(kept, tmp_path):
    first = stream(tmp_path / "s")
    step(first, note=[1])
    step(first, note={"seen": 2})
    again = stream(tmp_path / "s", start=refuse)
    assert again.step == 2 and again.notes == [[1], {"seen": 2}]
    assert torch.equal(again.states, torch.arange(60.0).view(SHAPE) + 2)
    assert len(list((tmp_path / "s").glob("*.npy"))) == 1  # what no step needs is not kept


def test_a_step_that_fails_is_done_again(kept, tmp_path):
    first = stream(tmp_path / "s")
    step(first)

    def fail(inputs, outputs):
        outputs.fill_(7)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        first.advance(fail)
    again = stream(tmp_path / "s", start=refuse)
    assert again.step == 1 and again.notes == [0]
    assert torch.equal(again.states, torch.arange(60.0).view(SHAPE) + 1)


def test_other_inputs_begin_anew(kept, tmp_path):
    step(stream(tmp_path / "s"))
    assert stream(tmp_path / "s", "two").step == 0


@pytest.mark.parametrize("lost", ["unit_000000.json", "state_001.npy"])
def test_a_folder_that_is_not_whole_begins_anew(kept, tmp_path, lost):
    step(stream(tmp_path / "s"))
    (tmp_path / "s" / lost).unlink()
    assert stream(tmp_path / "s").step == 0


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", bytes(200)])
def test_states_that_cannot_be_read_begin_anew(kept, tmp_path, caplog, content):
    step(stream(tmp_path / "s"))
    (tmp_path / "s" / "state_001.npy").write_bytes(content)
    assert stream(tmp_path / "s").step == 0
    assert "state_001.npy cannot be read" in caplog.text


def test_states_of_another_shape_begin_anew(kept, tmp_path):
    step(stream(tmp_path / "s"))
    again = ResidualStream(Scratch(tmp_path / "s", "one"), (2, 4, 5), lambda outputs: outputs.zero_())
    assert again.step == 0 and again.states.shape == (2, 4, 5)


def test_it_is_in_memory_where_two_thirds_of_what_is_there_hold_two_states(tmp_path, monkeypatch):
    two_states = 2 * 4 * 3 * 4 * 5
    for available, files in ((two_states * 3 // 2, 0), (two_states * 3 // 2 - 1, 1)):
        monkeypatch.setattr(module, "available_memory", lambda available=available: available)
        stream(tmp_path / str(available))
        assert len(list(tmp_path.glob(f"{available}/*.npy"))) == files


def test_between_spills_nothing_is_written_and_a_killed_run_goes_on_at_the_last_one(tmp_path, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock) / 1000)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_SPILLS", 0.0025)
    monkeypatch.setattr(module, "SHARE_OF_SPILLING", float("inf"))
    first, written = stream(tmp_path / "s"), []
    for note in range(7):
        step(first, note)
        written.append(sorted(path.name for path in (tmp_path / "s").glob("*")))
    assert written[0] == written[1] == [] and written[2] == written[3] == ["state_003.npy", "unit_000000.json"]
    again = stream(tmp_path / "s", start=refuse)
    assert 3 <= again.step < 7 and again.notes == list(range(again.step))
    assert torch.equal(again.states, torch.arange(60.0).view(SHAPE) + again.step)


def test_a_slow_disk_is_written_to_less_often(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_SPILLS", 0)
    spilled, original = [], ResidualStream.spill

    def slow(self):
        spilled.append(self.step)
        original(self)
        self._seconds_of_spilling = 60.0

    monkeypatch.setattr(ResidualStream, "spill", slow)
    first = stream(tmp_path / "s")
    for _ in range(5):
        step(first)
    assert spilled == [1]  # the next is due after 60 / 0.05 seconds


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_in_the_middle_of_a_step_loses_that_step_alone(tmp_path, error):
    def fail(inputs, outputs):
        outputs.fill_(7)
        raise error

    with pytest.raises(error), stream(tmp_path / "s") as first:
        step(first, "one")
        step(first, "two")
        first.advance(fail)
    again = stream(tmp_path / "s", start=refuse)
    assert again.notes == ["one", "two"] and torch.equal(again.states, torch.arange(60.0).view(SHAPE) + 2)


def test_states_that_are_not_finite_end_the_step_that_made_them(kept, tmp_path):
    first = stream(tmp_path / "s")
    step(first)
    with pytest.raises(ValueError, match=r"state_002\.npy is not written: window 1 .* at 1 of 20 places"):
        first.advance(lambda inputs, outputs: outputs.copy_(inputs).__setitem__((1, 2, 3), float("nan")))
    assert first.step == 1


def take_steps(folder, seconds_between_spills):
    module.SECONDS_BETWEEN_SPILLS, module.SHARE_OF_SPILLING = seconds_between_spills, float("inf")
    running = stream(folder)
    while running.step < 40:
        step(running, running.step)
        time.sleep(0.001)
    running.spill()


@pytest.mark.parametrize("seed", range(10))
def test_killed_at_a_random_moment_it_ends_with_the_states_of_one_go(tmp_path, seed):
    process = multiprocessing.get_context("fork").Process(target=take_steps, args=(tmp_path / "s", 0.003))
    process.start()
    time.sleep(random.Random(seed).uniform(0, 0.12))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    take_steps(tmp_path / "s", 0.003)
    again = stream(tmp_path / "s", start=refuse)
    assert again.notes == list(range(40)) and torch.equal(again.states, torch.arange(60.0).view(SHAPE) + 40)
