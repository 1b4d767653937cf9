"""The cases of the speed table run, at a small size: each is a layer's output."""

import pytest
import torch

from kernels.measure.gpu_cases import EAGER, GRAPH, gpu_groups
from kernels.measure.layers import ONLINE_SITES
from kernels.measure.timing import time_by_turns
from kernels.reference.layer import LayerSizes

SIZES = LayerSizes(hidden=192, heads=6, kv_heads=2, head_dim=64, intermediate=256)


@pytest.fixture(scope="module")
def groups(device):
    return list(gpu_groups(device, SIZES, "small", prefill_tokens=(3,), kv_lengths=(4,), batch=2))


def test_every_method_is_timed_in_both_phases(groups):
    prefill, decode = groups
    for cases in groups:
        assert [case.labels.method for case in cases] == [EAGER, GRAPH, *ONLINE_SITES]
    assert {(c.labels.phase, c.labels.tokens, c.labels.kv_length) for c in prefill} == {("prefill", 3, 0)}
    assert {(c.labels.phase, c.labels.tokens, c.labels.kv_length) for c in decode} == {("decode", 2, 4)}


@torch.no_grad()
def test_a_case_can_be_called_again_and_again(groups):
    for cases, shape in zip(groups, [(1, 3, 192), (2, 1, 192)], strict=True):
        for case in cases:
            first, second = case.run().clone(), case.run()
            assert first.shape == shape and torch.isfinite(first).all()
            assert torch.equal(first, second), case.labels


@torch.no_grad()
def test_both_float_layers_compute_the_same(groups):
    prefill, _ = groups
    eager, graph = (case.run().float() for case in prefill[:2])
    assert (eager - graph).norm() < 2e-3 * eager.norm()


@torch.no_grad()
def test_they_are_measured(groups):
    now = iter(range(10**6))
    rows = time_by_turns(groups[0][:2], rounds=3, seconds_per_case=0.0, clock=lambda: next(now), warmups=1)
    assert [row.ratio for row in rows] == [1.0, 1.0]


def test_all_but_the_published_baseline_are_captured_in_both_phases(device):
    calls = []

    def prepare(function, *arguments):
        calls.append((function.__name__, type(function.__self__).__name__, len(arguments)))
        return lambda: torch.zeros(1)

    cases = [c for g in gpu_groups(device, SIZES, "small", (3, 5), (4,), batch=2, prepare=prepare) for c in g]
    layers = ["GraphLayer", *len(ONLINE_SITES) * ["QuantizedLayer"]]
    assert calls == [(phase, layer, 2) for phase in ("prefill", "prefill", "decode") for layer in layers]
    assert sum(case.labels.method == EAGER for case in cases) == 3 == len(cases) - len(calls)
