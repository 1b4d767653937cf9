"""A linear layer whose weights are kept in bfloat16 and multiplied in float32: an output head at half the memory."""

import torch
from torch import Tensor

from kernels.cpu.library import TORCH, default_variant, load_library

FEW_TOKENS = 16
"""So many tokens are multiplied one by one; more with torch, after the weights were widened."""


class HalfLinear:
    """y = x W^T for bfloat16 W [d_out, d_in]: x [..., d_in] -> [..., d_out], in float32.

    It is for few tokens, where reading the weights is what takes the time; the number of threads is torch's. Of many
    tokens, and without a kernel, torch computes the product, whose last bits may follow that number. Raises ValueError
    for other weights.
    """

    def __init__(self, weight: Tensor, *, variant: str | None = None) -> None:
        if weight.dtype != torch.bfloat16 or weight.dim() != 2:
            raise ValueError(f"weights are bfloat16 [d_out, d_in], not {weight.dtype} {list(weight.shape)}")
        self.weight = weight.detach().contiguous()
        name = variant or default_variant()
        # Vectors of 16; no model known here has another width.
        self._library = None if name == TORCH or weight.shape[1] % 16 else load_library(name)

    def __call__(self, x: Tensor) -> Tensor:
        d_out, d_in = self.weight.shape
        if x.shape[-1] != d_in:
            raise ValueError(f"a layer of {d_in} channels does not read {list(x.shape)}")
        x = x.detach().float().contiguous()
        if self._library is None or x.numel() > FEW_TOKENS * d_in:
            return x @ self.weight.float().T
        y = torch.empty(*x.shape[:-1], d_out)
        threads = torch.get_num_threads()
        self._library.altq_half_linear(
            self.weight.data_ptr(), x.data_ptr(), x.numel() // d_in, d_in, d_out, y.data_ptr(), threads
        )
        return y
