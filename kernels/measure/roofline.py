"""Limits of a layer's speed: the larger of arithmetic and memory traffic, operation by operation, at full rate.

Measured times are compared with them. No launch, no latency and no cache is counted, on either side of a comparison.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from kernels.reference.layer import LayerSizes


@dataclass(frozen=True)
class Gpu:
    """Dense peak rates of a data sheet: operations a second (a multiply-add is two), bytes a second.

    int4 is None where the instruction is only emulated. target: the compute capability its kernels are laid out for.
    """

    name: str
    target: int
    float16: float
    int8: float
    int4: float | None
    bandwidth: float


A100 = Gpu("A100", 80, 312e12, 624e12, 1248e12, 2039e9)
RTX_4090 = Gpu("RTX 4090", 89, 165.2e12, 660.6e12, 1321.2e12, 1008e9)
L40S = Gpu("L40S", 89, 362e12, 733e12, 733e12, 864e9)
H100 = Gpu("H100", 90, 989e12, 1979e12, None, 3350e9)
B200 = Gpu("B200", 100, 2250e12, 4500e12, None, 8000e9)
GPUS = (A100, RTX_4090, L40S, H100, B200)


@dataclass(frozen=True)
class Work:
    """Operations by the type that is multiplied, and bytes moved; they overlap."""

    float16: float = 0.0
    int8: float = 0.0
    int4: float = 0.0
    bytes: float = 0.0

    def limits(self, gpu: Gpu) -> dict[str, float]:
        """Seconds that each resource alone needs; ValueError for int4 where the GPU has none."""
        if self.int4 and gpu.int4 is None:
            raise ValueError(f"{gpu.name} has no int4 tensor cores: count the product as int8")
        return {
            "memory": self.bytes / gpu.bandwidth,
            "float16 tensor cores": self.float16 / gpu.float16,
            "int8 tensor cores": self.int8 / gpu.int8,
            "int4 tensor cores": self.int4 / gpu.int4 if self.int4 else 0.0,
        }

    def bound(self, gpu: Gpu) -> tuple[float, str]:
        """The least seconds of the work, and the resource that takes them."""
        return max((seconds, name) for name, seconds in self.limits(gpu).items())


def linear_work(
    tokens: int, rows: int, channels: int, *, multiply: str, weight_bits: int = 4, bits: int = 4, residual: bool = False
) -> Work:
    """A linear layer with a float16 output; `multiply` is float16, int8 or int4."""
    moved = (weight_bits * rows + bits * tokens) * channels / 8 + (4 if residual else 2) * tokens * rows
    return Work(**{multiply: 2.0 * tokens * rows * channels}, bytes=moved)


def transform_work(
    tokens: int, channels: int, factors: int, *, outputs: int = 1, bits: int = 4, gate: bool = False
) -> Work:
    """Kronecker transform and quantization; factors: the sum of the sides of its factors, 0 for quantization alone."""
    moved = tokens * channels * ((4 if gate else 2) + outputs * bits / 8)
    return Work(float16=2.0 * tokens * channels * factors, bytes=moved)


def decode_attention_work(sequences: int, context: int, sizes: LayerSizes, *, key_bits: int, value_bits: int) -> Work:
    """Attention of one new token a sequence over `context` others; a packed cache has 4 bytes a token, head, side."""
    entries = sequences * context * sizes.kv_heads
    ranges = sum(4 for bits in (key_bits, value_bits) if bits < 16)
    moved = entries * (sizes.head_dim * (key_bits + value_bits) / 8 + ranges)
    return Work(float16=4.0 * sequences * context * sizes.heads * sizes.head_dim, bytes=moved)


def prefill_attention_work(tokens: int, sizes: LayerSizes) -> Work:
    """Causal attention of one sequence: half of the products."""
    moved = 2.0 * tokens * sizes.head_dim * (2 * sizes.heads + 2 * sizes.kv_heads)
    return Work(float16=2.0 * tokens**2 * sizes.heads * sizes.head_dim, bytes=moved)


def _layer_work(
    tokens: int, sizes: LayerSizes, multiply: str, bits: int, factors: dict[str, int], attention: Work
) -> Iterator[Work]:
    """The work of each part of a layer for `tokens` tokens; site -> the `factors` of its `transform_work`."""
    attended = sizes.heads * sizes.head_dim
    for site, rows, channels in (
        ("qkv", sum(sizes.qkv_rows), sizes.hidden),
        ("o", sizes.hidden, attended),
        ("gate_up", 2 * sizes.intermediate, sizes.hidden),
        ("down", sizes.hidden, sizes.intermediate),
    ):
        yield linear_work(tokens, rows, channels, multiply=multiply, weight_bits=bits, bits=bits)
        if bits < 16:
            yield transform_work(tokens, channels, factors.get(site, 0))
    yield attention
    # Two norms and the rotation of queries and keys read and write, two residuals read twice, the gate reads twice.
    rotated = attended + sizes.kv_heads * sizes.head_dim
    yield Work(bytes=2.0 * tokens * (4 * sizes.hidden + 2 * rotated + 6 * sizes.hidden + 3 * sizes.intermediate))


@dataclass(frozen=True)
class LayerKind:
    """A row of the speed table: bits (16 for float16), bits of the cache, and the factors of its transforms.

    factors: for each of qkv, o, gate_up and down, the sum of the sides of the factors, where there is a transform.
    """

    bits: int
    key_bits: int
    value_bits: int
    factors: tuple[tuple[str, int], ...] = ()


FLOAT16 = LayerKind(16, 16, 16)


def layer_seconds(
    gpu: Gpu, sizes: LayerSizes, kind: LayerKind, *, batch: int, context: int, prefill: bool, int4: bool = False
) -> float:
    """The least seconds of a layer: a prefill of `context` tokens, or a decode step behind as many.

    int4: multiply on int4 tensor cores rather than int8 ones. Prefill counts `batch` sequences.
    """
    multiply = "float16" if kind.bits == 16 else "int4" if int4 else "int8"
    if prefill:
        tokens = batch * context
        sequence = prefill_attention_work(context, sizes)
        attention = Work(float16=batch * sequence.float16, bytes=batch * sequence.bytes)
    else:
        tokens = batch
        attention = decode_attention_work(
            batch, context, sizes, key_bits=kind.key_bits, value_bits=kind.value_bits
        )  # fmt: skip
    parts = _layer_work(tokens, sizes, multiply, kind.bits, dict(kind.factors), attention)
    return sum(work.bound(gpu)[0] for work in parts)
