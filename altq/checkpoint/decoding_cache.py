"""The cache of a quantized model that decodes: tokens are transformed and quantized once, when they are appended.

Keys and values are kept as the values that their codes stand for, in float32: the numbers are those of a cache of 2 to
8 bits, its memory is not. In a cache of another sort than transformers' growing one they are kept as they come, and
attention quantizes all of them each time it reads them: the same numbers, only slower.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from altq.models.joints import cache_joint

IS_QUANTIZED = "altq_is_quantized"
"""Attribute of keys that come from a cache which quantizes what is appended to it."""


@runtime_checkable
class CacheQuantizer(Protocol):
    """A joint that transforms and quantizes keys and values [b, kv_heads, t, d], each token and head by itself."""

    def keys_and_values(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Values that the codes of both stand for, in the shapes in which they came."""


def is_quantized(key: Tensor) -> bool:
    """Whether keys, and the values beside them, come from a cache that quantizes what is appended to it."""
    return getattr(key, IS_QUANTIZED, False)


def quantize_caches(model: PreTrainedModel) -> None:
    """Let every empty growing cache that a quantized model is called with quantize what is appended to it."""
    joints: list[object] = [cache_joint(module) for module in model.modules()]
    quantizers = [joint for joint in joints if isinstance(joint, CacheQuantizer)]
    model.get_decoder().register_forward_pre_hook(partial(_prepare, quantizers), with_kwargs=True)


def _prepare(quantizers: list[CacheQuantizer], _: nn.Module, __: tuple[Any, ...], arguments: dict[str, Any]) -> None:
    cache = arguments.get("past_key_values")
    # One that holds tokens has quantized them already, or holds them as they came.
    if type(cache) is not DynamicCache or cache.get_seq_length() or len(cache.layers) != len(quantizers):
        return
    for layer, quantizer in zip(cache.layers, quantizers, strict=True):
        if isinstance(layer, CacheLayerMixin) and "update" not in vars(layer):
            append = partial(_append, type(layer).update, layer, quantizer)
            layer.update = append  # type: ignore[method-assign]  # transformers' caches have no hook


def _append(
    update: Callable[..., tuple[Tensor, Tensor]],
    layer: CacheLayerMixin,
    quantizer: CacheQuantizer,
    key: Tensor,
    value: Tensor,
    *arguments: Any,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Append keys and values [b, kv_heads, t, d] to a layer of a cache, quantized; all that it has by then."""
    key, value = quantizer.keys_and_values(key, value)
    key, value = update(layer, key, value, *arguments, **options)
    setattr(key, IS_QUANTIZED, True)
    return key, value
