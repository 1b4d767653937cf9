"""Cases that are timed on a CPU: single linear layers and whole decoder layers, float32 torch first in each group."""

import platform
import time
from collections.abc import Iterator, Sequence
from functools import cache, partial

import torch
from torch.nn import functional as F

from kernels.cpu.library import TORCH, default_variant, load_library
from kernels.cpu.variant import CPU_INFORMATION
from kernels.measure.cpu_layer import (
    LAYERS,
    Layer,
    float_layer,
    linear_shapes,
    quantized_layer,
    random_factors,
    random_linear,
)
from kernels.measure.layers import ONLINE_SITES
from kernels.measure.timing import Case, Labels

LINEARS = {"4096x4096": (4096, 4096), "576x1536": (576, 1536)}
TOKENS = (1, 256, 2048)
KV_LENGTHS = (256, 2048)
FLOAT32 = "fp32 torch"

_FLOATS, _BYTES, _TILES = 0, 1, 2  # kinds of multiplication of source/peak.h
_TOKENS_WITH_TILES = 16


def cpu_groups(
    groups: Sequence[str], variant: str | None, shapes: Sequence[str] | None, tokens: Sequence[int] | None
) -> Iterator[list[Case]]:
    """Groups of cases to be timed by turns, of all shapes and token counts unless some are given."""
    variant = variant or default_variant()
    tokens = TOKENS if tokens is None else tokens
    for name, (d_out, d_in) in LINEARS.items() if "linear" in groups else ():
        if shapes is None or name in shapes:
            for number in tokens:
                yield linear_cases(name, d_out, d_in, number, variant)
    for name in LAYERS if "layer" in groups else ():
        if shapes is None or name in shapes:
            yield from layer_groups(name, tokens, variant)


def linear_cases(name: str, d_out: int, d_in: int, tokens: int, variant: str) -> list[Case]:
    """Cases of a linear layer, with the transform and quantization of its input.

    QuaRot and FlatQuant differ in the other sites, so they are timed in whole layers alone.
    """
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(tokens, d_in, generator=generator), torch.randn(d_out, d_in, generator=generator)
    cases = [_case("linear", name, tokens, 0, FLOAT32, lambda: F.linear(x, weight), [(d_out, d_in)], variant)]
    for method in ("INT4", "adaptive"):
        left, right = random_factors(d_in, generator) if method == "adaptive" else (None, None)
        layer = random_linear(d_out, d_in, generator, left=left, right=right, variant=variant)
        run = lambda layer=layer: layer(x)  # noqa: E731
        cases.append(_case("linear", name, tokens, 0, method, run, [(d_out, d_in)], variant))
    return cases


def layer_groups(name: str, tokens: Sequence[int], variant: str) -> Iterator[list[Case]]:
    """Groups of a decoder layer: prefill into an empty cache, and one token after caches of several lengths."""
    generator, sizes = torch.Generator().manual_seed(0), LAYERS[name]
    layers: dict[str, Layer] = {FLOAT32: float_layer(sizes, generator)}
    layers |= {method: quantized_layer(sizes, method, generator, variant) for method in ONLINE_SITES}
    calls = [(number, 0) for number in tokens if number > 1] + [(1, length) for length in KV_LENGTHS if 1 in tokens]
    for number, length in calls:
        shape = 1, sizes.kv_heads, length + number, sizes.head_dim
        caches = tuple(torch.randn(shape, generator=generator) for _ in range(2))
        x = torch.randn(1, number, sizes.hidden, generator=generator)
        angles = torch.rand(number, sizes.head_dim, generator=generator)
        rotary = angles.cos(), angles.sin()
        cases = []
        for method, layer in layers.items():
            run = lambda layer=layer: layer(x, rotary, caches, length)  # noqa: B023, E731
            phase = "decode" if number == 1 else "prefill"
            cases.append(_case(phase, name, number, length, method, run, list(linear_shapes(sizes).values()), variant))
        yield cases


def _case(phase, shape, tokens, kv_length, method, run, linears, variant) -> Case:
    bits = 32 if method == FLOAT32 else 4
    limit = sum(_limit(d_out, d_in, tokens, bits, variant) or 0 for d_out, d_in in linears) or None
    return Case(Labels("CPU", phase, shape, tokens, kv_length, method), run, limit)


def _limit(d_out: int, d_in: int, tokens: int, bits: int, variant: str) -> float | None:
    """The longer of reading the weights at the bandwidth measured, and multiplying at the rate measured."""
    if variant == TORCH:
        return None
    kind = _FLOATS if bits == 32 else _TILES if variant == "amx" and tokens >= _TOKENS_WITH_TILES else _BYTES
    size = d_out * d_in * bits // 8
    return max(size / bandwidth(variant, size), d_out * d_in * tokens / peak_rate(variant, kind))


@cache
def bandwidth(variant: str, size: int) -> float:
    """Bytes a second at which all threads read `size` bytes over and over, in whichever cache these stay; best of ten."""
    library, memory = load_library(variant), torch.zeros(size, dtype=torch.uint8)
    read = partial(library.altq_read, memory.data_ptr(), size // 64 * 64, torch.get_num_threads())
    return size / min(_seconds(read) for _ in range(10))


@cache
def peak_rate(variant: str, kind: int) -> float:
    """Multiplications a second of a kind by all threads, from the best of ten runs of one, which has nothing to load."""
    library, rounds = load_library(variant), 1_000_000
    number = library.altq_peak(kind, rounds)
    return torch.get_num_threads() * number / min(_seconds(lambda: library.altq_peak(kind, rounds)) for _ in range(10))


def _seconds(function) -> float:
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    function()
    return clock() - start


def machine() -> dict[str, object]:
    """The processor, threads and variant of a measurement, and its limits as measured."""
    model = platform.processor()
    if CPU_INFORMATION.is_file():
        lines = CPU_INFORMATION.read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    variant = default_variant()
    kinds = {"float32": _FLOATS, "bytes": _BYTES} | ({"tiles": _TILES} if variant == "amx" else {})
    rates = {} if variant == TORCH else {name: round(peak_rate(variant, kind)) for name, kind in kinds.items()}
    return {
        "cpu": model,
        "threads": torch.get_num_threads(),
        "variant": variant,
        "torch": torch.__version__,
        "bytes_per_second": rates
        and {"8 MB": round(bandwidth(variant, 8 << 20)), "1 GB": round(bandwidth(variant, 1 << 30))},
        "multiplications_per_second": rates,
    }
