"""The two float16 baselines compute one layer."""

import torch

from kernels.measure.half_layer import EagerLayer, GraphLayer, GrowingCache
from kernels.measure.layers import random_weights
from kernels.reference.layer import LayerSizes

SIZES = LayerSizes(hidden=192, heads=6, kv_heads=2, head_dim=64, intermediate=256)


def test_both_agree_token_by_token(normal, device):
    weights = random_weights(SIZES, generator=torch.Generator().manual_seed(1))
    weights = weights._replace(attention_norm=1 + normal(SIZES.hidden, seed=2).cpu() / 8)
    weights = type(weights)(*(weight.to(device) for weight in weights))
    x = normal(2, 5, SIZES.hidden, seed=3)
    eager, graph = (layer(SIZES, weights, capacity=12) for layer in (EagerLayer, GraphLayer))
    growing, fixed = GrowingCache(), graph.empty_cache(2)
    outputs, expected = [eager(x[:, :2], growing)], [graph.prefill(x[:, :2], fixed)]
    for step in range(2, 5):
        fixed.positions.fill_(step)
        outputs.append(eager(x[:, step : step + 1], growing))
        expected.append(graph.decode(x[:, step : step + 1], fixed))
    y, wanted = (torch.cat(parts, dim=1).float() for parts in (outputs, expected))
    assert (y - wanted).norm() < 2e-3 * wanted.norm()
    growing.keep(2)
    torch.testing.assert_close(eager(x[:, 2:3], growing), outputs[1])
