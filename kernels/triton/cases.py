"""What is timed on a GPU, by the protocol of the published speed table: one decoder layer of LLaMA-2-7B.

Prefill: one sequence into an empty cache, whose quantization is inside the time. Decode: one token for each of a batch of
sequences behind a cache of some length; it is written to the same place in each call. Weights, transforms and hidden
states are random: none of them changes what is computed.
"""

import subprocess
from collections.abc import Callable, Iterator, Sequence

import torch
import triton
from torch import Tensor

from kernels.benchmark import Case, Labels
from kernels.half_layer import EagerLayer, GraphLayer, GrowingCache
from kernels.layer import (
    LLAMA_2_7B,
    ONLINE_SITES,
    LayerSizes,
    QuantizedLayer,
    Transforms,
    capture,
    random_weights,
    triton_operations,
)
from kernels.roofline import FLOAT16, GPUS, Gpu, LayerKind, layer_seconds
from kernels.triton.linear_int4 import INT4_TARGETS

PREFILL_TOKENS = (2048, 4096, 8192)
KV_LENGTHS = (256, 512, 1024, 2048)
DECODE_BATCH = 64

EAGER, GRAPH = "fp16 as published", "fp16, SDPA and CUDA graphs"
FACTORS = {4096: (64, 64), 11008: (86, 128), 14336: (112, 128), 192: (12, 16), 256: (16, 16)}
"""The sides of the two factors of a width."""


def gpu_groups(
    device: torch.device | str = "cuda",
    sizes: LayerSizes = LLAMA_2_7B,
    shape: str = "llama-2-7b",
    prefill_tokens: Sequence[int] = PREFILL_TOKENS,
    kv_lengths: Sequence[int] = KV_LENGTHS,
    batch: int = DECODE_BATCH,
) -> Iterator[list[Case]]:
    """Groups of cases to be timed by turns, the published float16 baseline first."""
    capacity = max(*prefill_tokens, *(length + 1 for length in kv_lengths))
    weights = random_weights(sizes, device=device, generator=torch.Generator(device).manual_seed(0))
    int4 = _multiplies_int4(device)
    operations = triton_operations(sizes, device=device, int4=int4)
    quantized = {
        method: QuantizedLayer(sizes, weights, transforms_at(sites, sizes, device), operations, capacity=capacity)
        for method, sites in ONLINE_SITES.items()
    }
    eager, graph = (layer(sizes, weights, capacity=capacity) for layer in (EagerLayer, GraphLayer))
    gpu = next((known for known in GPUS if known.name in device_name(device)), None)

    def case(phase: str, tokens: int, length: int, method: str, run: Callable[[], Tensor]) -> Case:
        labels = Labels(device_name(device), phase, shape, tokens, length, method)
        return Case(labels, run, gpu and _limit(gpu, sizes, method, phase, length or tokens, batch, int4))

    for tokens in prefill_tokens:
        x = torch.randn(1, tokens, sizes.hidden, device=device, dtype=torch.float16)
        runs = {EAGER: lambda x=x: eager(x, GrowingCache())}
        for method, layer in {GRAPH: graph, **quantized}.items():
            runs[method] = lambda x=x, layer=layer, cache=layer.empty_cache(1): layer.prefill(x, cache)
        yield [case("prefill", tokens, 0, method, run) for method, run in runs.items()]
    for length in kv_lengths:
        x = torch.randn(batch, 1, sizes.hidden, device=device, dtype=torch.float16)
        runs = {EAGER: _eager_step(eager, sizes, x, length)}
        for method, layer in {GRAPH: graph, **quantized}.items():
            cache = layer.empty_cache(batch)
            cache.positions.fill_(length)
            if method in ONLINE_SITES:  # an empty cache has scales of zero, as no token has
                cache.keys.ranges.fill_(1.0)
                cache.values.ranges.fill_(1.0)
            step = lambda x=x, layer=layer, cache=cache: layer.decode(x, cache)  # noqa: E731
            runs[method] = capture(step) if x.is_cuda else step
        yield [case("decode", batch, length, method, run) for method, run in runs.items()]


def transforms_at(sites: Sequence[str], sizes: LayerSizes, device: torch.device | str) -> Transforms:
    """Random orthogonal transforms at these sites."""
    generator = torch.Generator().manual_seed(1)

    def factor(*shape: int) -> Tensor:
        return torch.linalg.qr(torch.randn(*shape, shape[-1], generator=generator))[0].contiguous().to(device)

    made = {
        "qkv": lambda: tuple(map(factor, FACTORS[sizes.hidden])),
        "o": lambda: factor(sizes.heads),
        "gate_up": lambda: tuple(map(factor, FACTORS[sizes.hidden])),
        "down": lambda: tuple(map(factor, FACTORS[sizes.intermediate])),
        "key": lambda: factor(sizes.kv_heads, sizes.head_dim),
    }
    return Transforms(**{site: made[site]() for site in sites})


def _eager_step(layer: EagerLayer, sizes: LayerSizes, x: Tensor, length: int) -> Callable[[], Tensor]:
    """One token behind a cache of `length`, which is cut back to it afterwards."""
    cache = GrowingCache()
    shape = len(x), sizes.kv_heads, length, sizes.head_dim
    cache.keys, cache.values = (torch.randn(shape, device=x.device, dtype=x.dtype) for _ in range(2))

    def step() -> Tensor:
        y = layer(x, cache)
        cache.keep(length)
        return y

    return step


def _limit(gpu: Gpu, sizes: LayerSizes, method: str, phase: str, context: int, batch: int, int4: bool) -> float:
    """Seconds that a GPU of these rates takes at least."""
    kind = FLOAT16
    if method in ONLINE_SITES:
        sides = {"qkv": FACTORS[sizes.hidden], "gate_up": FACTORS[sizes.hidden], "down": FACTORS[sizes.intermediate]}
        sides["o"] = (sizes.heads,)
        kind = LayerKind(4, 4, 4, tuple((site, sum(sides[site])) for site in ONLINE_SITES[method] if site in sides))
    prefill = phase == "prefill"
    count = 1 if prefill else batch
    return layer_seconds(gpu, sizes, kind, batch=count, context=context, prefill=prefill, int4=int4)


def _multiplies_int4(device: torch.device | str) -> bool:
    """Whether the tensor cores of a device have an int4 product that is worth using."""
    if torch.device(device).type != "cuda":
        return False
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor in INT4_TARGETS


def device_name(device: torch.device | str) -> str:
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "CPU"


def machine() -> dict[str, object]:
    """The GPU that the rows were measured on, with its clocks as nvidia-smi tells them after the measurement."""
    query = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem,power.limit,driver_version", "--format=csv,noheader"]
    try:
        clocks = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        clocks = "not known"
    return {
        "gpu": torch.cuda.get_device_name(),
        "clocks": clocks,
        "torch": torch.__version__,
        "triton": triton.__version__,
    }
