"""The benchmark's arithmetic, on a clock that the cases themselves turn."""

import csv
import json

import pytest
import torch

from kernels.benchmark import Case, Labels, measure, quartiles, write
from kernels.cpu.cases import FLOAT32, LINEARS, cpu_groups
from kernels.cpu.layer import LAYERS, ONLINE_SITES, float_layer, quantized_layer, random_factors
from kernels.layer import LayerSizes


class Clock:
    """Time passes only while a case runs."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def case(self, method, seconds):
        def run():
            self.calls.append(method)
            self.now += seconds * (1 + self.calls.count(method) % 2)

        return Case(Labels("CPU", "linear", "2x2", 1, 0, method), run, limit_seconds=0.5)

    def __call__(self):
        return self.now


def test_cases_take_turns_and_ratios_are_of_the_same_round():
    clock = Clock()
    rows = measure([clock.case("slow", 4.0), clock.case("fast", 1.0)], rounds=5, seconds_per_case=0.0, clock=clock)
    assert clock.calls[:8] == 4 * ["slow"] + 4 * ["fast"], "warm-up"
    assert clock.calls[8:] == ["slow", "fast", "fast", "slow", "slow", "fast", "fast", "slow", "slow", "fast"]
    assert [row.ratio for row in rows] == [1.0, 4.0] and rows[1].limit_seconds == 0.5
    assert rows[0].low_seconds <= rows[0].median_seconds <= rows[0].high_seconds and rows[0].rounds == 5


def test_short_cases_are_called_often():
    clock = Clock()
    measure([clock.case("short", 0.001)], rounds=2, seconds_per_case=0.1, clock=clock)
    assert len(clock.calls) - 4 in (2 * 100, 2 * 50)


def test_quartiles():
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


def test_rows_are_a_tidy_table(tmp_path):
    clock = Clock()
    rows = measure([clock.case("a", 1.0), clock.case("b", 2.0)], rounds=3, seconds_per_case=0.0, clock=clock)
    write(rows, {"cpu": "some"}, tmp_path / "deep" / "rows.csv")
    with (tmp_path / "deep" / "rows.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [row["method"] for row in read] == ["a", "b"] and float(read[1]["ratio"]) == 0.5
    assert json.loads((tmp_path / "deep" / "rows.json").read_text())["cpu"] == "some"


def test_every_group_starts_with_float32(monkeypatch):
    monkeypatch.setattr("kernels.cpu.cases._limit", lambda *arguments: 1.0)
    monkeypatch.setattr("kernels.cpu.cases.LINEARS", {"24x36": (24, 36)})
    monkeypatch.setattr("kernels.cpu.cases.LAYERS", {"tiny": TINY})
    groups = list(cpu_groups(["linear", "layer"], None, None, [1, 5]))
    assert all(group[0].labels.method == FLOAT32 for group in groups)
    assert {case.labels.phase for group in groups for case in group} == {"linear", "prefill", "decode"}
    with torch.no_grad():
        for group in groups:
            shapes = {tuple(case.run().shape) for case in group}
            assert len(shapes) == 1
    assert [case.labels.method for case in groups[-1]] == [FLOAT32, *ONLINE_SITES]


def test_the_issue_s_shapes_are_there():
    assert {"4096x4096", "576x1536"} == LINEARS.keys() and {"llama-2-7b", "smollm2-135m"} == LAYERS.keys()
    left, right = random_factors(11008, torch.Generator())
    assert (len(left), len(right)) == (86, 128)


TINY = LayerSizes(hidden=24, heads=4, kv_heads=2, head_dim=6, intermediate=40)


@pytest.mark.parametrize("method", [None, *ONLINE_SITES])
def test_a_layer_token_by_token_is_the_layer_at_once(method):
    generator = torch.Generator().manual_seed(0)
    layer = quantized_layer(TINY, method, generator) if method else float_layer(TINY, generator)
    x, angles = torch.randn(1, 7, 24, generator=generator), torch.rand(7, 6, generator=generator)
    rotary, caches = (angles.cos(), angles.sin()), tuple(torch.zeros(1, 2, 7, 6) for _ in range(2))
    whole = layer(x, rotary, caches, 0)
    kept = [cache.clone() for cache in caches]
    for t in range(7):
        y = layer(x[:, t : t + 1], tuple(part[t : t + 1] for part in rotary), caches, t)
        # A sum in another order can move a value over the edge between two codes.
        assert (y - whole[:, t : t + 1]).norm() <= (1e-5 if method is None else 0.2) * whole[:, t].norm()
    assert all((new - old).norm() <= 0.2 * old.norm() for new, old in zip(caches, kept, strict=True))
