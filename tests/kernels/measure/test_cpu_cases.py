"""The groups that are timed on a CPU, at a small size."""

import torch

from kernels.measure.cpu_cases import FLOAT32, LINEARS, cpu_groups
from kernels.measure.cpu_layer import LAYERS, random_factors
from kernels.measure.layers import ONLINE_SITES
from kernels.reference.layer import LayerSizes

TINY = LayerSizes(hidden=24, heads=4, kv_heads=2, head_dim=6, intermediate=40)


def test_every_group_starts_with_float32(monkeypatch):
    monkeypatch.setattr("kernels.measure.cpu_cases._limit", lambda *arguments: 1.0)
    monkeypatch.setattr("kernels.measure.cpu_cases.LINEARS", {"24x36": (24, 36)})
    monkeypatch.setattr("kernels.measure.cpu_cases.LAYERS", {"tiny": TINY})
    groups = list(cpu_groups(["linear", "layer"], None, None, [1, 5]))
    assert all(group[0].labels.method == FLOAT32 for group in groups)
    assert {case.labels.phase for group in groups for case in group} == {"linear", "prefill", "decode"}
    with torch.no_grad():
        for group in groups:
            shapes = {tuple(case.run().shape) for case in group}
            assert len(shapes) == 1
    assert [case.labels.method for case in groups[-1]] == [FLOAT32, *ONLINE_SITES]


def test_the_shapes_of_the_speed_table_are_there():
    assert {"4096x4096", "576x1536"} == LINEARS.keys() and {"llama-2-7b", "smollm2-135m"} == LAYERS.keys()
    left, right = random_factors(11008, torch.Generator())
    assert (len(left), len(right)) == (86, 128)
