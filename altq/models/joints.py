"""Joints that connect transformations and quantizers to transformers' own blocks.

A projection reads its input through a joint that it shares with the projections beside it; queries, keys and values
pass through a joint after rotary embedding. Nothing else of a block is touched.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from altq.runtime.device import traits_of

ATTENTION = "altq"
CACHE_JOINT = "altq_cache_joint"
"""Attribute of an attention module that holds its joint."""

CacheJoint = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""(queries [b, heads, t, d], keys, values [b, kv_heads, t, d]) -> the same, transformed and quantized."""


class SharedInput:
    """Applies `function` once to an input that several projections read in turn."""

    def __init__(self, function: Callable[[Tensor], object], num_readers: int) -> None:
        self.function = function
        self.num_readers = num_readers
        self._reads_left = 0
        self._kept: tuple[Tensor, object] | None = None  # an input and its output

    def __call__(self, x: Tensor) -> object:
        if self._kept is None or self._kept[0] is not x:
            self._kept, self._reads_left = (x, self.function(x)), self.num_readers
        _, output = self._kept
        self._reads_left -= 1
        if not self._reads_left:
            self._kept = None
        return output


class Projection(nn.Module):
    """y = f(x) W^T + b, in place of a block's nn.Linear.

    `weight` is whatever `product` takes besides f(x): a tensor, also one with a graph, codes, a slice.
    """

    def __init__(self, linear: nn.Linear, shared: SharedInput, product: Callable[[Any, Any], Tensor] = F.linear):
        super().__init__()
        self.shared = shared
        self.product = product
        self.weight: object = linear.weight.detach()
        self.bias: Tensor | None = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.shared(x))

    def project(self, inputs: object) -> Tensor:
        """Multiply inputs f(x) [..., d_in] by the weight and add the bias: [..., d_out]."""
        y = self.product(inputs, self.weight)
        return y if self.bias is None else y + self.bias


def attach_cache_joint(attention: nn.Module, joint: CacheJoint) -> None:
    """Let queries, keys and values of this attention module pass through `joint`."""
    setattr(attention, CACHE_JOINT, joint)


def cache_joint(module: nn.Module) -> CacheJoint | None:
    """The joint of an attention module, None for any other module and where none is attached."""
    return getattr(module, CACHE_JOINT, None)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    joint = cache_joint(module)
    if joint is not None:
        query, key, value = joint(query, key, value)
    if kwargs.get("softcap") is not None:
        return _capped_attention(query, key, value, attention_mask, **kwargs), None
    reduced = traits_of(query.device).attention
    if reduced is None or query.dtype != torch.float32:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    query, key, value = query.to(reduced), key.to(reduced), value.to(reduced)
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.to(reduced)
    output, weights = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return output.float(), weights


def _capped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, softcap: float, scaling: float, **_: Any
) -> Tensor:
    """Attention with logits c tanh(q k^T s / c), which torch's own has not: [b, t, heads, d].

    mask: what may be seen [b, 1, t, keys], or what is added to the logits; None as transformers leaves it out, for a
    single query and for whole windows.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    logits = softcap * torch.tanh(query @ key.mT * (scaling / softcap))
    if mask is None and query.shape[2] > 1:
        mask = torch.ones(logits.shape[2:], dtype=torch.bool, device=logits.device).tril()
    if mask is not None:
        hidden = torch.finfo(logits.dtype).min
        logits = logits.masked_fill(~mask, hidden) if mask.dtype == torch.bool else logits + mask
    return (logits.softmax(-1) @ value).transpose(1, 2).contiguous()


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, sdpa_mask)
