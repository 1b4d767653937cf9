"""The next block is read in a thread: at most one, with its error where it is asked for, and without holding it."""

import gc
import threading
import weakref

import pytest
import torch

from altq.models.read_ahead import ReadAhead


class Disk:
    """Blocks 0, 1, ... of one tensor, which are read where they are copied; those that were, by which thread."""

    def __init__(self):
        self.copied, self.alive, self.most_alive = [], 0, 0
        self.gate = threading.Event()
        self.gate.set()

    def read(self, block):
        if block == 7:
            raise ValueError("model.safetensors: tensor 7 is damaged; fetch the model again")
        return {"weight": torch.full((2, 3), float(block))}

    def place(self, tensor):
        self.gate.wait()
        copy = tensor.clone()
        self.copied.append((int(copy[0, 0]), threading.current_thread() is threading.main_thread()))
        self.alive += 1
        self.most_alive = max(self.alive, self.most_alive)
        weakref.finalize(copy, self._drop)
        return copy

    def _drop(self):
        self.alive -= 1


@pytest.fixture
def disk():
    return Disk()


@pytest.fixture
def ahead(disk):
    return ReadAhead(disk.read)


def block_of(tensors):
    return int(tensors["weight"][1, 2])


def test_a_block_is_read_in_the_thread_while_another_is_at_work(disk, ahead):
    for block in range(5):
        assert block_of(ahead.take(block)) == block
        ahead.begin(block + 1, disk.place)
    ahead.take(5)
    assert disk.copied == [(block, False) for block in range(1, 6)]


def test_a_block_that_is_not_ahead_is_read_at_once_and_the_one_ahead_stays(disk, ahead):
    disk.gate.clear()
    ahead.begin(3, disk.place)
    assert block_of(ahead.take(1)) == 1
    disk.gate.set()
    assert block_of(ahead.take(3)) == 3 and disk.copied == [(3, False)]


def test_at_most_one_is_ahead_and_none_is_held_once_it_is_taken(disk, ahead):
    gc.disable()
    try:
        for block in (1, 2, 2, 3, 5):
            ahead.begin(block, disk.place)
        assert block_of(ahead.take(5)) == 5
        assert disk.most_alive == 1 and disk.alive == 0
    finally:
        gc.enable()


def test_its_error_is_raised_where_the_block_is_asked_for(disk, ahead):
    ahead.begin(7, disk.place)
    assert block_of(ahead.take(1)) == 1
    with pytest.raises(ValueError, match="tensor 7 is damaged; fetch the model again"):
        ahead.take(7)
    ahead.begin(7, disk.place)
    ahead.begin(2, disk.place)  # nobody asked for the other
    assert block_of(ahead.take(2)) == 2


def test_an_interruption_while_waiting_leaves_a_process_that_can_end(disk, ahead, monkeypatch):
    disk.gate.clear()
    ahead.begin(1, disk.place)
    (_, future) = ahead._ahead
    monkeypatch.setattr(future, "result", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ahead.take(1)
    disk.gate.set()
    assert block_of(ahead.take(2)) == 2
