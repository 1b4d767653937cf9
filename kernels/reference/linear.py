"""The quantized linear layer: an exact product of integer codes, then scales, bias and residual."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.reference.packing import unpack


def linear(
    codes: Tensor,
    scales: Tensor,
    weight: Tensor,
    weight_scales: Tensor,
    *,
    bits: int = 4,
    weight_bits: int = 4,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    rows: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float16,
) -> Tensor:
    """y = (scale of the token) (scale of the channel) codes W^T + bias + residual: [tokens, d_out].

    codes: uint8 [outputs, tokens, bytes] and scales: float32 [outputs, tokens], as `transform_quantize` gives them,
    with `bits` bits in memory, 4 or 8. weight: uint8 [d_out, bytes] of `weight_bits` bits, 4 or 8; weight_scales:
    float32 [d_out]. rows: with several outputs, how many rows of the weight read each of them (q, k, v); their sum is
    d_out. bias [d_out], residual [tokens, d_out]. The epilogue is in float32 and is rounded once to dtype.
    Raises ValueError where the sizes do not fit together.
    """
    rows = [len(weight)] if rows is None else list(rows)
    if len(rows) != len(codes) or sum(rows) != len(weight):
        raise ValueError(f"{len(codes)} inputs for rows {rows} of a weight of {len(weight)} rows")
    # Products of codes and their sums are integers below 2^53: exact.
    inputs = unpack(codes, bits, signed=True).double()
    weights = unpack(weight, weight_bits, signed=True).double().split(rows)
    products = [(x @ w.T).float() * scale.unsqueeze(-1) for x, w, scale in zip(inputs, weights, scales, strict=True)]
    y = torch.cat(products, dim=-1) * weight_scales.float()
    if bias is not None:
        y = y + bias.float()
    if residual is not None:
        y = y + residual.float()
    return y.to(dtype)
