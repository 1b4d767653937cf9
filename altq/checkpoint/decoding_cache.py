"""The cache of a quantized model that decodes: tokens are transformed and quantized once, when they are appended.

Keys and values are kept as the values that their codes stand for, in float32: the numbers are those of a cache of 2 to
8 bits, its memory is not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache

from altq.checkpoint.quantized_model import CacheReader


class QuantizedCache(DynamicCache):
    """transformers' own growing cache behind the quantizer of each block."""

    def __init__(self, config: Any, readers: list[CacheReader]) -> None:
        super().__init__(config=config)
        self._readers = readers

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any):
        key_states, value_states = self._readers[layer_idx].keys_and_values(key_states, value_states)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


@contextmanager
def decoding_cache(model: nn.Module) -> Iterator[DynamicCache]:
    """An empty cache for a model, which must be called with it inside the context; transformers' own without joints."""
    readers = [module.altq_cache_joint for module in model.modules() if hasattr(module, "altq_cache_joint")]
    if not readers:
        yield DynamicCache(config=model.config)
        return
    for reader in readers:
        reader.holds_read_cache = True
    try:
        yield QuantizedCache(model.config, readers)
    finally:
        for reader in readers:
            reader.holds_read_cache = False
