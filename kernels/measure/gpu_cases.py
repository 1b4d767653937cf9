"""Cases that are timed on a GPU, by the protocol of the published speed table: one decoder layer of LLaMA-2-7B.

Prefill: one sequence into an empty cache, whose quantization is inside the time. Decode: one token for each of a batch
of sequences behind a cache of some length; it is written to the same place in each call. Both are replayed from CUDA
graphs, but for the baseline as published, so that the GPU is timed and not the host. Weights, transforms and hidden
states are random: none of them changes the work.
"""

import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import triton
from torch import Tensor

from kernels.measure.half_layer import EagerLayer, GraphLayer, GrowingCache
from kernels.measure.layers import FACTORS, LLAMA_2_7B, ONLINE_SITES, random_transforms, random_weights
from kernels.measure.roofline import FLOAT16, GPUS, Gpu, LayerKind, layer_seconds
from kernels.measure.timing import Case, Labels
from kernels.reference.layer import LayerSizes, QuantizedLayer
from kernels.triton.graph import CapturedStep
from kernels.triton.layer import has_int4, triton_operations

PREFILL_TOKENS = (2048, 4096, 8192)
KV_LENGTHS = (256, 512, 1024, 2048)
DECODE_BATCH = 64

EAGER, GRAPH = "fp16 as published", "fp16, SDPA and CUDA graphs"


def gpu_groups(
    device: torch.device | str = "cuda",
    sizes: LayerSizes = LLAMA_2_7B,
    shape: str = "llama-2-7b",
    prefill_tokens: Sequence[int] = PREFILL_TOKENS,
    kv_lengths: Sequence[int] = KV_LENGTHS,
    batch: int = DECODE_BATCH,
    prepare: Callable[..., Callable[[], Tensor]] | None = None,
) -> Iterator[list[Case]]:
    """Groups of cases to be timed by turns, the published float16 baseline first.

    prepare(function, *arguments) gives the call to time; by default a CUDA graph on a GPU, elsewhere the plain call.
    """
    if prepare is None:
        prepare = CapturedStep if torch.device(device).type == "cuda" else partial
    capacity = max(*prefill_tokens, *(length + 1 for length in kv_lengths))
    weights = random_weights(sizes, device=device, generator=torch.Generator(device).manual_seed(0))
    int4 = has_int4(device)
    operations = triton_operations(sizes, device=device, int4=int4)
    quantized = {
        method: QuantizedLayer(sizes, weights, random_transforms(sites, sizes, device), operations, capacity=capacity)
        for method, sites in ONLINE_SITES.items()
    }
    eager, graph = (layer(sizes, weights, capacity=capacity) for layer in (EagerLayer, GraphLayer))
    gpu = next((gpu for gpu in GPUS if gpu.name in device_name(device)), None)

    def case(phase: str, tokens: int, length: int, method: str, run: Callable[[], Tensor]) -> Case:
        labels = Labels(device_name(device), phase, shape, tokens, length, method)
        return Case(labels, run, gpu and _limit(gpu, sizes, method, phase, length or tokens, batch, int4))

    for tokens in prefill_tokens:
        x = torch.randn(1, tokens, sizes.hidden, device=device, dtype=torch.float16)
        runs = {EAGER: lambda x=x: eager(x, GrowingCache())}
        for method, layer in {GRAPH: graph, **quantized}.items():
            runs[method] = prepare(layer.prefill, x, layer.empty_cache(1))
        yield [case("prefill", tokens, 0, method, run) for method, run in runs.items()]
    for length in kv_lengths:
        x = torch.randn(batch, 1, sizes.hidden, device=device, dtype=torch.float16)
        runs = {EAGER: _eager_step(eager, sizes, x, length)}
        for method, layer in {GRAPH: graph, **quantized}.items():
            cache = layer.empty_cache(batch)
            cache.positions.fill_(length)
            if method in ONLINE_SITES:  # an empty cache has scales of zero, which no token has
                cache.keys.ranges.fill_(1.0)
                cache.values.ranges.fill_(1.0)
            runs[method] = prepare(layer.decode, x, cache)
        yield [case("decode", batch, length, method, run) for method, run in runs.items()]


def _eager_step(layer: EagerLayer, sizes: LayerSizes, x: Tensor, length: int) -> Callable[[], Tensor]:
    """Step of one token after a cache of `length` tokens, which is cut back to that length afterwards."""
    cache = GrowingCache()
    shape = len(x), sizes.kv_heads, length, sizes.head_dim
    cache.keys, cache.values = (torch.randn(shape, device=x.device, dtype=x.dtype) for _ in range(2))

    def step() -> Tensor:
        y = layer(x, cache)
        cache.keep(length)
        return y

    return step


def _limit(gpu: Gpu, sizes: LayerSizes, method: str, phase: str, context: int, batch: int, int4: bool) -> float:
    """The least seconds of a case on a GPU of these rates."""
    kind = FLOAT16
    if method in ONLINE_SITES:
        sides = {"qkv": FACTORS[sizes.hidden], "gate_up": FACTORS[sizes.hidden], "down": FACTORS[sizes.intermediate]}
        sides["o"] = (sizes.heads,)
        kind = LayerKind(4, 4, 4, tuple((site, sum(sides[site])) for site in ONLINE_SITES[method] if site in sides))
    prefill = phase == "prefill"
    count = 1 if prefill else batch
    return layer_seconds(gpu, sizes, kind, batch=count, context=context, prefill=prefill, int4=int4)


def device_name(device: torch.device | str) -> str:
    """The name of a GPU as its driver gives it; "CPU" for any other device."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "CPU"


def machine() -> dict[str, object]:
    """The GPU of a measurement, with its clocks as nvidia-smi reports them afterwards."""
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
