"""The cache of a quantized model that decodes: tokens are transformed and quantized once, when they are appended.

Keys and values are kept as the values that their codes stand for, in float32: the numbers are those of a cache of 2 to
8 bits, its memory is not. In a cache of another sort than transformers' growing one they are kept as they come, and
attention quantizes all of them each time it reads them: the same numbers, only slower.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin


class CacheQuantizer(Protocol):
    """What transforms and quantizes keys and values [b, kv_heads, t, d], each token and head by itself."""

    def keys_and_values(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]: ...


def is_quantized(key: Tensor) -> bool:
    """Whether keys, and the values beside them, come from a cache that quantizes what is appended to it."""
    return getattr(key, "altq_is_quantized", False)


def quantize_caches(model: nn.Module) -> None:
    """Let every empty growing cache that a quantized model is called with quantize what is appended to it."""
    decoder = model.get_decoder()
    quantizers = [module.altq_cache_joint for module in model.modules() if hasattr(module, "altq_cache_joint")]
    decoder.register_forward_pre_hook(partial(_prepare, quantizers), with_kwargs=True)


def _prepare(quantizers: list[CacheQuantizer], _: nn.Module, __: tuple[Any, ...], arguments: dict[str, Any]) -> None:
    cache = arguments.get("past_key_values")
    # One that holds tokens has quantized them already, or holds them as they came.
    if type(cache) is not DynamicCache or cache.get_seq_length() or len(cache.layers) != len(quantizers):
        return
    for layer, quantizer in zip(cache.layers, quantizers, strict=True):
        if not hasattr(layer, "altq_quantizer"):
            layer.altq_quantizer = quantizer
            layer.update = partial(_append, type(layer).update, layer)


def _append(
    update: Callable[..., tuple[Tensor, Tensor]],
    layer: CacheLayerMixin,
    key: Tensor,
    value: Tensor,
    *arguments: Any,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Append keys and values [b, kv_heads, t, d] to a layer of a cache, quantized; all that it has by then."""
    key, value = update(layer, *layer.altq_quantizer.keys_and_values(key, value), *arguments, **options)
    key.altq_is_quantized = True
    return key, value
