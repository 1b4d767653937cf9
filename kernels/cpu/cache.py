"""The quantizer of keys or values: a transform for each head, then codes with a zero point, back as floats."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.cpu.library import TORCH, default_variant, load_library


class CacheQuantizer:
    """Q(x A_head) of x [batch, kv_heads, tokens, d] for each token and head, as the floats that the codes stand for.

    bits: 2 to 8, or None for no quantizer. clips: [kv_heads, 2], factors of the minimum and the maximum. factors:
    [kv_heads, d, d], or None for no transform. A row that is NaN or infinite anywhere comes out as NaN.
    Raises ValueError for other bits and for sizes that do not belong together.
    """

    def __init__(
        self, bits: int | None, clips: Tensor, factors: Tensor | None = None, *, variant: str | None = None
    ) -> None:
        if bits is not None and not 2 <= bits <= 8:
            raise ValueError(f"a cache has codes of 2 to 8 bits, not of {bits}")
        self.bits = bits
        self.clips = clips.detach().float().contiguous()
        self.factors = None if factors is None else factors.detach().float().contiguous()
        if self.clips.dim() != 2 or self.clips.shape[1] != 2:
            raise ValueError(f"clips of a cache are [kv_heads, 2], not {list(self.clips.shape)}")
        if factors is not None and (factors.dim() != 3 or factors.shape != (len(clips), *2 * factors.shape[-1:])):
            raise ValueError(f"{len(clips)} heads do not have factors {list(factors.shape)}")
        name = variant or default_variant()
        self._library = None if name == TORCH else load_library(name)
        self._padded = None if factors is None else F.pad(self.factors, (0, -factors.shape[-1] % 16)).contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[1] != len(self.clips) or (self.factors is not None and x.shape[-1] != self.factors.shape[-1]):
            raise ValueError(f"a cache of {len(self.clips)} heads does not hold {list(x.shape)}")
        x = x.detach().float().contiguous()
        if self._library is None:
            return self._in_torch(x)
        y = torch.empty_like(x)
        factors = None if self._padded is None else self._padded.data_ptr()
        if self._library.altq_cache(
            x.data_ptr(), *x.shape, factors, self.clips.data_ptr(), self.bits or 0, y.data_ptr(),
            torch.get_num_threads(),
        ):  # fmt: skip
            raise MemoryError("no memory for the workspace of the cache's quantizer")
        return y

    def _in_torch(self, x: Tensor) -> Tensor:
        y = x if self.factors is None else x @ self.factors
        if self.bits is None or not y.numel():
            return y
        clips, levels = self.clips.view(1, -1, 1, 2), (1 << self.bits) - 1
        low = y.amin(-1, keepdim=True).clamp(max=0) * clips[..., :1]
        span = y.amax(-1, keepdim=True).clamp(min=0) * clips[..., 1:] - low
        scale = torch.where(span > 0, span, 1.0) / levels
        zero = (-low / scale).round()
        y = torch.minimum(torch.maximum((y / scale).round_(), -zero), levels - zero) * scale
        return torch.where(y.isfinite().all(-1, keepdim=True), y, torch.nan)
