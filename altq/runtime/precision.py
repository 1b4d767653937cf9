"""Matrix products in reduced precision where their operands allow it: outputs and sums are in float32 always.

Quantized operands are small integers, so a product of codes is exact in bfloat16 (codes of up to 8 bits) and in TF32;
and during calibration the rounding of operands (2^-9, 2^-12) is far below that of the quantizers (2^-4). Processors with
AMX run products of bfloat16 operands about three times as fast as float32 ones, GPUs those of TF32 several times as fast;
on other processors this module changes nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn


@lru_cache(maxsize=1)
def _has_fast_bfloat16() -> bool:
    """Whether the processor has AMX and the environment lets torch and oneDNN use it."""
    isa_limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    capabilities = torch.backends.cpu.get_cpu_capability(), torch.cpu._is_amx_tile_supported()
    return capabilities[0].startswith("AVX512") and capabilities[1] and (isa_limit in ("", "ALL") or "AMX" in isa_limit)


@contextmanager
def reduced_products() -> Iterator[None]:
    """Inside, float32 products round their operands: to TF32 on a GPU, to bfloat16 on a CPU that is faster so."""
    reduced: list[tuple[Any, str]] = [(torch.backends.cuda.matmul, "tf32")]
    if _has_fast_bfloat16():
        # torch replaces the module by an object.
        reduced.append((torch.backends.mkldnn.matmul, "bf16"))  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend, _ in reduced]
    for backend, precision in reduced:
        backend.fp32_precision = precision
    try:
        yield
    finally:
        for (backend, _), precision in zip(reduced, before, strict=True):
            backend.fp32_precision = precision


def precision_of(device: torch.device) -> str:
    """Name the type that `reduced_products` rounds operands to on a device, and attention's on a GPU."""
    if device.type == "cuda":
        return "products tf32, attention bfloat16"
    return "products bfloat16" if _has_fast_bfloat16() else "products float32"


def _product(a: Tensor, b: Tensor) -> Tensor:
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


class ReducedLinear(nn.Linear):
    """A linear layer that multiplies as `reduced_linear` does."""

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = reduced_linear(inputs, self.weight)
        return outputs if self.bias is None else outputs + self.bias


def reduce_linear_layers(model: nn.Module) -> None:
    """Let every linear layer of a model multiply in reduced precision."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = ReducedLinear
