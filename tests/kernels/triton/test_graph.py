"""What a replayed CUDA graph needs stays in memory. Without a GPU, torch's graphs are stood in for."""

import gc
import weakref
from contextlib import nullcontext

import pytest
import torch

from kernels.triton.graph import CapturedStep


class Graph:
    """A graph that runs the step again where it is replayed: a tensor that has died is noticed."""

    def __init__(self):
        self.replays = 0

    def replay(self):
        self.replays += 1


class Stream:
    def wait_stream(self, other):
        pass


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that are made, oldest first; capturing in one is a plain call."""
    graphs = []
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graphs.append(Graph()) or graphs[-1])
    return graphs


def test_a_replay_keeps_what_the_graph_reads(graphs):
    def captured():
        x, y = torch.ones(3), torch.ones(3)
        step = lambda x=x, y=y: x + y  # noqa: E731
        return CapturedStep(step), weakref.ref(x), weakref.ref(y)

    replay, *inputs = captured()
    gc.collect()
    assert all(tensor() is not None for tensor in inputs)
    assert replay().tolist() == [2, 2, 2] and replay() is replay()
    del replay
    gc.collect()
    assert all(tensor() is None for tensor in inputs), "and no longer than the replay"


def test_arguments_are_kept_where_their_name_is_bound_again(graphs):
    x = torch.ones(3)
    first, replay = weakref.ref(x), CapturedStep(torch.add, x, x)
    x = torch.zeros(3)
    gc.collect()
    assert first() is not None and replay().tolist() == [2, 2, 2]


def test_a_step_runs_three_times_and_once_in_the_graph(graphs):
    calls = []
    replay = CapturedStep(lambda: calls.append(len(graphs)) or torch.ones(1))
    assert calls == [0, 0, 0, 1]
    for _ in range(5):
        replay()
    assert len(calls) == 4 and graphs[0].replays == 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_replay_reads_what_its_inputs_hold_now():
    x = torch.ones(3, device="cuda")
    replay = CapturedStep(torch.add, x, x)
    x.fill_(2)
    assert replay().tolist() == [4, 4, 4]
