"""The decoder layer that is timed on a CPU."""

import pytest
import torch

from kernels.measure.cpu_layer import float_layer, quantized_layer
from kernels.measure.layers import ONLINE_SITES
from kernels.reference.layer import LayerSizes

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
