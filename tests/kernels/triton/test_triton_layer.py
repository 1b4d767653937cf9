"""The quantized layer on the Triton kernels against its references, against float16, and its launches."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.measure.half_layer import GraphLayer
from kernels.measure.layers import LLAMA_2_7B, random_weights
from kernels.reference.layer import REFERENCE, LayerSizes, QuantizedLayer, Transforms
from kernels.triton.graph import CapturedStep
from kernels.triton.launch import recording
from kernels.triton.layer import triton_operations

# Rows of q, k and v are multiples of 64, as those of all models are.
SIZES = LayerSizes(hidden=192, heads=6, kv_heads=2, head_dim=64, intermediate=256)
CAPACITY = 12


def transforms_for(sizes, device, sites=("qkv", "o", "gate_up", "down", "key"), seed=7):
    """Random invertible transforms of some sites, not too far from orthogonal."""
    generator = torch.Generator().manual_seed(seed)

    def factor(d, *batch):
        noise = torch.randn(*batch, d, d, generator=generator)
        return (torch.linalg.qr(noise)[0] + noise / d / 4).to(device)

    d1 = {192: 12, 256: 16, 4096: 64, 11008: 86}
    pairs = {"qkv": sizes.hidden, "gate_up": sizes.hidden, "down": sizes.intermediate}
    all_sites = {name: (factor(d1[d]), factor(d // d1[d])) for name, d in pairs.items()}
    all_sites |= {"o": factor(sizes.heads), "key": factor(sizes.head_dim, sizes.kv_heads)}
    return Transforms(**{name: all_sites[name] for name in sites})


def weights_for(sizes, device):
    weights = random_weights(sizes, generator=torch.Generator().manual_seed(1))
    norm = 1 + torch.randn(sizes.hidden, generator=torch.Generator().manual_seed(2)) / 8
    weights = weights._replace(attention_norm=norm.half(), ffn_norm=norm.flip(0).half())
    return type(weights)(*(weight.to(device) for weight in weights))


def run(layer, x, *, decoded):
    """Prefill of x but its last tokens, then those one at a time: [batch, tokens, hidden]."""
    cache, tokens = layer.empty_cache(len(x)), x.shape[1] - decoded
    outputs = [layer.prefill(x[:, :tokens].contiguous(), cache)]
    cache.positions.fill_(tokens)
    for step in range(tokens, x.shape[1]):
        outputs.append(layer.decode(x[:, step : step + 1].contiguous(), cache))
        cache.positions.add_(1)
    return torch.cat(outputs, dim=1)


def relative_error(y, expected):
    return ((y - expected).float().norm() / expected.float().norm()).item()


@pytest.fixture
def x(normal):
    return normal(2, 5, SIZES.hidden, seed=3)


@pytest.mark.parametrize("sites", [(), ("o", "down", "key"), ("qkv", "o", "gate_up", "down", "key")])
def test_the_kernels_equal_the_references(x, device, sites):
    layers = [
        QuantizedLayer(
            SIZES, weights_for(SIZES, device), transforms_for(SIZES, device, sites), operations, capacity=CAPACITY,
            clip=0.9,
        )
        for operations in (triton_operations(SIZES, device=device), REFERENCE)
    ]  # fmt: skip
    y, expected = (run(layer, x, decoded=1) for layer in layers)
    half = run(GraphLayer(SIZES, weights_for(SIZES, device), capacity=CAPACITY), x, decoded=1)
    # Where float16 sums of another order tip a code, the outputs differ by a part of the error of four bits.
    assert relative_error(y, expected) < 0.25 * relative_error(expected, half)


@pytest.mark.parametrize("separate_clips", [False, True])
def test_at_8_bits_the_transformed_layer_is_the_layer(x, device, separate_clips):
    weights = weights_for(SIZES, device)
    half = run(GraphLayer(SIZES, weights, capacity=CAPACITY), x, decoded=1)
    layer = QuantizedLayer(
        SIZES, weights, transforms_for(SIZES, device), triton_operations(SIZES, device=device),
        capacity=CAPACITY, bits=8, key_bits=8, value_bits=8, separate_clips=separate_clips,
    )  # fmt: skip
    assert relative_error(run(layer, x, decoded=1), half) < 0.03
    # Without the inverse transforms in the weights nothing would be right.
    layer.qkv = layer.qkv._replace(left=torch.eye(12, device=device).half())
    assert relative_error(layer.prefill(x, layer.empty_cache(len(x))), half) > 0.05


# The interpreter computes with numpy, which warns of the NaN that is meant.
@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("which", ["kernels", "references"])
def test_a_token_behind_a_full_cache_is_nan_and_no_other(x, device, which):
    operations = triton_operations(SIZES, device=device) if which == "kernels" else REFERENCE
    layer = QuantizedLayer(
        SIZES, weights_for(SIZES, device), transforms_for(SIZES, device), operations, capacity=CAPACITY
    )  # fmt: skip
    cache, token = layer.empty_cache(2), x[:, :1].contiguous()
    layer.prefill(x, cache)
    cache.positions.copy_(torch.tensor([CAPACITY, 5]))
    other = layer.decode(token, cache)[1]
    assert layer.decode(token, cache)[0].isnan().all() and other.isfinite().all()
    cache.positions[0] = 5
    assert torch.equal(layer.decode(token, cache)[1], other)


class _Operators(TorchDispatchMode):
    """Names of the torch operators that would start something on a device."""

    # Views, and memory that nothing is written to.
    FREE = ("view", "_unsafe_view", "squeeze", "unsqueeze", "select", "slice", "transpose", "empty", "new_empty",
            "empty_like", "detach", "alias")  # fmt: skip

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name not in self.FREE:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("target", "int4"), [(80, True), (80, False), (89, True), (90, False), (100, False)])
@pytest.mark.parametrize("batch", [1, 64])
def test_a_decode_step_is_eleven_launches_and_no_torch_operation(target, int4, batch):
    # On the meta device no value exists: what runs there cannot wait for one.
    layer = QuantizedLayer(
        LLAMA_2_7B, random_weights(LLAMA_2_7B, device="meta"), transforms_for(LLAMA_2_7B, "meta"),
        triton_operations(LLAMA_2_7B, device="meta", int4=int4), capacity=2304,
    )  # fmt: skip
    x, cache = torch.empty(batch, 1, LLAMA_2_7B.hidden, dtype=torch.float16, device="meta"), layer.empty_cache(batch)
    with recording(target) as launches, _Operators() as operators:
        layer.decode(x, cache)
    assert len(launches) == (11 if batch == 1 else 10)
    assert operators.names == []
    with recording(target) as launches:
        layer.prefill(torch.empty(1, 2048, LLAMA_2_7B.hidden, dtype=torch.float16, device="meta"), layer.empty_cache(1))
    assert len(launches) == 9  # and torch's attention


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_decode_step_and_a_prefill_can_be_captured(x):
    layer = QuantizedLayer(
        SIZES, weights_for(SIZES, "cuda"), transforms_for(SIZES, "cuda"), triton_operations(SIZES, device="cuda"),
        capacity=CAPACITY,
    )  # fmt: skip
    cache, token = layer.empty_cache(2), x[:, :1].contiguous()
    for function, tokens in ((layer.decode, token), (layer.prefill, x)):
        expected = function(tokens, cache)
        replay = CapturedStep(function, tokens, cache)
        tokens.copy_(tokens.clone())
        assert torch.equal(replay(), expected)
