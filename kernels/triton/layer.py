"""The operations of a decoder layer as Triton kernels, for `kernels.reference.layer.QuantizedLayer`."""

from functools import partial

import torch

from kernels.reference.layer import LayerSizes, Operations
from kernels.triton.attention import decode_attention
from kernels.triton.cache import append
from kernels.triton.configurations import MOST_SHARED_TOKENS
from kernels.triton.kronecker import transform_quantize
from kernels.triton.linear import linear
from kernels.triton.linear_int4 import INT4_TARGETS, linear_int4
from kernels.triton.product import empty_workspace


def triton_operations(sizes: LayerSizes, *, device: torch.device | str, int4: bool = False) -> Operations:
    """The operations of layers that run one after another on one stream.

    All their linears share a workspace, which two streams, or a graph beside eager calls, would corrupt
    (`kernels.triton.product.CHECK_WORKSPACE` looks for that). int4: multiply on int4 tensor cores.
    """
    widest = max(sum(sizes.qkv_rows), 2 * sizes.intermediate, sizes.hidden)
    workspace = empty_workspace(MOST_SHARED_TOKENS, widest, device)
    multiply = linear_int4 if int4 else linear
    return Operations(transform_quantize, partial(multiply, workspace=workspace), append, decode_attention)


def has_int4(device: torch.device | str) -> bool:
    """Whether the tensor cores of a device multiply int4 faster than int8."""
    if torch.device(device).type != "cuda":
        return False
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor in INT4_TARGETS
