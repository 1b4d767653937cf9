"""Matrix products in reduced precision where their operands allow it.

Quantized operands are small integers, so a product of codes is exact in bfloat16 with float32 accumulation; and during
calibration the rounding of bfloat16 (2^-9) is far below that of the quantizers (2^-4). Processors with AMX run such
products about three times as fast as float32 ones; on others this module changes nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


@lru_cache(maxsize=1)
def _has_fast_bfloat16() -> bool:
    """Whether the processor has AMX and the environment lets torch and oneDNN use it."""
    isa_limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    capabilities = torch.backends.cpu.get_cpu_capability(), torch.cpu._is_amx_tile_supported()
    return capabilities[0].startswith("AVX512") and capabilities[1] and (isa_limit in ("", "ALL") or "AMX" in isa_limit)


@contextmanager
def reduced_products() -> Iterator[None]:
    """Inside, float32 matrix products on the CPU round their operands to bfloat16 and accumulate in float32."""
    if not _has_fast_bfloat16():
        yield
        return
    backend = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch replaces the module by an object
    precision = backend.fp32_precision
    backend.fp32_precision = "bf16"
    try:
        yield
    finally:
        backend.fp32_precision = precision


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in reduced precision, on a GPU by way of bfloat16 operands."""
    if a.is_cuda and a.dtype == torch.float32:
        return (a.bfloat16() @ b.bfloat16()).float()
    with reduced_products():
        return a @ b


class _ReducedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return _product(inputs, weight.T)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        grad_inputs = _product(grad, weight) if ctx.needs_input_grad[0] else None
        grad_weight = _product(grad.flatten(0, -2).T, inputs.flatten(0, -2)) if ctx.needs_input_grad[1] else None
        return grad_inputs, grad_weight


def reduced_linear(inputs: Tensor, weight: Tensor) -> Tensor:
    """`inputs @ weight.T` in reduced precision, forward and backward: [..., d_in], [d_out, d_in] -> [..., d_out]."""
    return _ReducedLinear.apply(inputs, weight)
