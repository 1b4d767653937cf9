"""The kernels in the shapes that are compiled for every target: calls of the wrappers with tensors on the meta device."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.measure.layers import LLAMA_2_7B, LLAMA_3_8B
from kernels.measure.roofline import Work, decode_attention_work, linear_work, transform_work
from kernels.reference.cache import empty_cache
from kernels.reference.layer import LayerSizes
from kernels.triton.attention import decode_attention
from kernels.triton.cache import append
from kernels.triton.kronecker import transform_quantize
from kernels.triton.launch import TARGETS
from kernels.triton.linear import linear
from kernels.triton.linear_int4 import INT4_TARGETS, linear_int4


@dataclass(frozen=True)
class Case:
    """A call of a kernel's wrapper. work: that of its first launch; a second one merges parts, and moves its tensors."""

    name: str
    call: Callable[[], object]
    work: Work
    targets: tuple[int, ...] = TARGETS


def _meta(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def _floats(*shape: int) -> Tensor:
    return _meta(*shape, dtype=torch.float32)


def _transform(
    name: str, tokens: int, d1: int | None, d2: int | None, channels: int, *, outputs: int = 1, **options
) -> Case:
    gate = options.get("gate", False)
    left, right = (None if d is None else _meta(d, d) for d in (d1, d2))
    x, norm = _meta(tokens, channels * (2 if gate else 1)), _meta(channels) if options.pop("norm", False) else None
    return Case(
        name,
        lambda: transform_quantize(x, left, right, _floats(outputs), bits=4, norm=norm, **options),
        transform_work(tokens, channels, (d1 or 0) + (d2 or 0), outputs=outputs, gate=gate),
    )


def _linear(
    name: str, tokens: int, parts: tuple[int, ...], channels: int, *, int4: bool = False, bits: int = 4
) -> Case:
    rows, outputs = sum(parts), len(parts)
    codes = _meta(outputs, tokens, channels * bits // 8, dtype=torch.uint8), _floats(outputs, tokens)
    weight = _meta(rows, channels // 2, dtype=torch.uint8), _floats(rows)
    residual = _meta(tokens, rows) if outputs == 1 else None
    work = linear_work(
        tokens, rows, channels, multiply="int4" if int4 else "int8", bits=bits, residual=residual is not None
    )
    return Case(
        name,
        lambda: (linear_int4 if int4 else linear)(*codes, *weight, bits=bits, residual=residual, rows=parts),
        work,
        INT4_TARGETS if int4 else TARGETS,
    )


def _append(name: str, tokens: int, batch: int, bits: tuple[int, int], *, keep_values: bool = False) -> Case:
    sizes = LLAMA_2_7B
    keys, values = (empty_cache(batch, sizes.kv_heads, 2304, sizes.head_dim, b, device="meta") for b in bits)
    factors = _meta(sizes.kv_heads, sizes.head_dim, sizes.head_dim)
    channels, clip = sum(sizes.qkv_rows), _floats(sizes.kv_heads, 2)
    values_moved = batch * tokens * channels / 3
    work = Work(
        float16=2 * 2 * values_moved * sizes.head_dim,
        bytes=values_moved * (8 + sum(bits) / 8 + (4 if keep_values else 0)),
    )
    return Case(
        name,
        lambda: append(
            _meta(batch, tokens, channels), _meta(batch, dtype=torch.int32), keys, values, key_bits=bits[0],
            value_bits=bits[1], key_clip=clip, value_clip=clip, rotary=2 * (_floats(2304, sizes.head_dim // 2),),
            key_factors=factors, query_factors=factors, keep_values=keep_values,
        ),
        work,
    )  # fmt: skip


def _attention(
    name: str, sizes: LayerSizes, batch: int, context: int, bits: tuple[int, int], *, transform: bool = False
) -> Case:
    keys, values = (empty_cache(batch, sizes.kv_heads, context, sizes.head_dim, b, device="meta") for b in bits)
    factors = _meta(sizes.kv_heads, sizes.head_dim, sizes.head_dim) if transform else None
    return Case(
        name,
        lambda: decode_attention(
            _meta(batch, sizes.heads, sizes.head_dim), keys, values, _meta(batch, dtype=torch.int32), key_bits=bits[0],
            value_bits=bits[1], query_factors=factors,
        ),
        decode_attention_work(batch, context, sizes, key_bits=bits[0], value_bits=bits[1]),
    )  # fmt: skip


def cases() -> Iterator[Case]:
    """All kernels in the shapes of LLaMA-2-7B, unless a name gives another model; batch 64 for decoding."""
    three, two = LLAMA_2_7B.qkv_rows, 2 * (LLAMA_2_7B.intermediate,)
    yield _transform("q, k, v: 64 x 64, norm, 3 clips, prefill 2048", 2048, 64, 64, 4096, outputs=3, norm=True)
    yield _transform("o: 32 heads of 128, decode", 64, 32, None, 4096)
    yield _transform("down: 86 x 128, gate, prefill 2048", 2048, 86, 128, 11008, gate=True)
    yield _transform("down: Hadamard 172 x 64, gate, decode", 64, 172, 64, 11008, gate=True)
    yield _transform("LLaMA-2-70B down: 128 x 224, gate, prefill 2048", 2048, 128, 224, 28672, gate=True)
    yield _transform("Qwen2.5-32B down: 144 x 192, gate, prefill 2048", 2048, 144, 192, 27648, gate=True)
    yield _transform("SmolLM2-135M q, k, v: 24 x 24, norm, 3 clips, one token", 1, 24, 24, 576, outputs=3, norm=True)
    yield _linear("q, k, v: 12288 x 4096, prefill 2048", 2048, three, 4096)
    yield _linear("o: 4096 x 4096, shared tiles, decode", 64, (4096,), 4096)
    yield _linear("down: 4096 x 11008, shared tiles, one token", 1, (4096,), 11008)
    yield _linear("W4A8 o: 4096 x 4096, prefill 2048", 2048, (4096,), 4096, bits=8)
    yield _linear("gate, up: 22016 x 4096, prefill 2048", 2048, two, 4096, int4=True)
    yield _linear("o: 4096 x 4096, shared tiles, decode", 64, (4096,), 4096, int4=True)
    yield _linear("down: 4096 x 11008, shared tiles, one token", 1, (4096,), 11008, int4=True)
    yield _append("K4V4, decode", 1, 64, (4, 4))
    yield _append("K3V2, prefill 2048", 2048, 1, (3, 2), keep_values=True)
    yield _attention("K4V4, context 2048, decode", LLAMA_2_7B, 64, 2048, (4, 4))
    yield _attention("K3V3, context 2048, decode", LLAMA_2_7B, 64, 2048, (3, 3))
    yield _attention("LLaMA-3-8B K2V2, 8192, one sequence, key transform", LLAMA_3_8B, 1, 8192, (2, 2), transform=True)
