"""Where memory ends the batch is halved once, which is said; where it ends again, an error says what was going on."""

import gc
import weakref

import pytest
import torch

from altq.runtime.batch_size import BatchSize
from altq.runtime.failures import message_of

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has"


def sizes(batch, num_windows, asked):
    return [len(range(num_windows)[rows]) for rows in batch.slices(num_windows, asked)]


def failing(times, work=lambda: "done"):
    left = [True] * times

    def run():
        if left:
            left.pop()
            raise torch.OutOfMemoryError(FULL)
        return work()

    return run


def test_as_many_as_are_asked_for():
    assert sizes(BatchSize(), 10, 4) == [4, 4, 2] and sizes(BatchSize(), 3, 8) == [3]


def test_once_memory_ends_half_as_many_and_that_is_said(caplog):
    batch = BatchSize()
    assert batch.fit(failing(1), "block 3") == "done"
    assert sizes(batch, 10, 4) == [2] * 5 and sizes(batch, 2, 1) == [1, 1]
    (said,) = caplog.messages
    assert (
        said == "block 3: CUDA out of memory. Tried to allocate 2.00 GiB.; going on with half as many windows at once"
    )


def test_a_second_time_is_an_error_that_names_the_work_and_the_remedy():
    batch = BatchSize()
    with pytest.raises(MemoryError, match=r"^block 3: CUDA out of memory.*with half as many .*--gpu-memory") as raised:
        batch.fit(failing(2), "block 3")
    assert "block 3" in message_of(raised.value)
    with pytest.raises(MemoryError, match="block 4"):
        batch.fit(failing(1), "block 4")


def test_other_errors_pass():
    batch = BatchSize()
    with pytest.raises(RuntimeError, match="other"):
        batch.fit(lambda: (_ for _ in ()).throw(RuntimeError("other")), "block 3")
    assert not batch.is_halved


def test_tensors_of_the_first_attempt_are_gone_before_the_second():
    alive = []

    def work():
        if alive:
            return alive[0]()
        tensor = torch.ones(5)
        alive.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError(FULL)

    gc.disable()
    try:
        assert BatchSize().fit(work, "block 3") is None
    finally:
        gc.enable()
