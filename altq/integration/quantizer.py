"""Checkpoints of altq as a quantization method of transformers: `AutoModelForCausalLM.from_pretrained` gives the model.

transformers builds its own model and reads what lies outside the blocks; blocks are made as altq itself makes them, so
that every number is the same. All of it is computed in float32 on a CPU.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from altq.checkpoint.decoding_cache import quantize_caches
from altq.checkpoint.format import CHECKPOINT_INDEX_FILE, QUANT_METHOD, CheckpointWeights
from altq.checkpoint.packed_model import packed_joints
from altq.checkpoint.quantized_model import CacheReader, integer_products, quantize_block
from altq.checkpoint.saving import save_checkpoint
from altq.models.family import family_of
from altq.models.fused_projection import split_fused_projections
from altq.models.joints import ATTENTION
from altq.models.overflow import refuse_overflow_in_norms

ProductsName = Literal["float", "packed"]
"""How projections are computed: on codes held as floats, or on packed codes by the CPU kernels."""

PLACED_BY_TRANSFORMERS = ("auto", "balanced", "balanced_low_0", "sequential")


@register_quantization_config(QUANT_METHOD)
class AltqConfig(QuantizationConfigMixin):
    """`quantization_config` of a checkpoint's config.json, and how its products are to be computed here."""

    def __init__(
        self,
        setting: str,
        blocks: list[dict[str, Any]],
        products: ProductsName = "float",
        quant_method: str = QUANT_METHOD,
    ) -> None:
        if products not in get_args(ProductsName):
            raise ValueError(f"products {products!r} is not known; give one of {', '.join(get_args(ProductsName))}")
        self.quant_method = quant_method  # type: ignore[assignment]  # one that is registered is no member of the enum
        self.setting = setting
        self.blocks = blocks
        self.products = products

    def to_dict(self) -> dict[str, Any]:
        """Content that is saved: the checkpoint alone, not how it was run."""
        content = super().to_dict()
        del content["products"]
        return content


@register_quantizer(QUANT_METHOD)
class AltqQuantizer(HfQuantizer):
    """Loads a checkpoint into transformers' model."""

    requires_calibration = True

    def validate_environment(self, device_map: Any = None, **_: Any) -> None:
        """ValueError for a device other than the CPU."""
        places = device_map.values() if isinstance(device_map, dict) else [device_map]
        wrong = {str(place) for place in places if place is not None} - {"cpu", *PLACED_BY_TRANSFORMERS}
        if wrong:
            raise ValueError(
                f"a checkpoint of altq runs on the CPU alone, and {', '.join(sorted(wrong))} is asked for; leave "
                "device_map out, or give 'cpu'"
            )

    def update_device_map(self, device_map: Any) -> Any:
        return {"": "cpu"} if device_map in PLACED_BY_TRANSFORMERS else device_map

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """float32 whatever is asked for: codes, scales and transforms are made for it."""
        return torch.float32

    def update_attn_implementation(self, config: PretrainedConfig) -> PretrainedConfig:
        """The attention that heeds the joints, and, since this comes before files are looked for, altq's own files."""
        config._attn_implementation = ATTENTION
        config.transformers_weights = CHECKPOINT_INDEX_FILE
        return config

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: list[str] | None = None, **_: Any
    ) -> None:
        if not checkpoint_files:
            raise ValueError("a checkpoint of altq is loaded from its folder; give it to from_pretrained")
        weights = CheckpointWeights(Path(checkpoint_files[0]).parent)
        family = family_of(model.config.model_type)
        split_fused_projections(model, family, weights.config)
        refuse_overflow_in_norms(model, weights.source.name)
        prefix = f"{family.blocks}."
        tied = model.all_tied_weights_keys
        for name in model.state_dict():
            if not name.startswith(prefix) and name not in weights.names and tied.get(name) not in weights.names:
                raise ValueError(f"{weights.folder} lacks {name}; {weights.source.remedy}")
        assert isinstance(self.quantization_config, AltqConfig)
        is_packed = self.quantization_config.products == "packed"
        products, cache_reader = packed_joints() if is_packed else (integer_products, CacheReader)
        with torch.device("cpu"):  # transformers makes its model without memory
            for number in range(weights.num_blocks):
                block = model.get_submodule(f"{family.blocks}.{number}")
                quantize_block(block, weights, block=number, products=products, cache_reader=cache_reader)
        # transformers is not to report the tensors of blocks as those that it had no place for.
        ignored = model._keys_to_ignore_on_load_unexpected or set()
        model._keys_to_ignore_on_load_unexpected = {*ignored, rf"^{re.escape(prefix)}"}
        model.save_pretrained = partial(save_checkpoint, model, weights)  # type: ignore[method-assign]  # for this model alone

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        quantize_caches(model)
        return model

    def get_state_dict_and_metadata(self, model: PreTrainedModel) -> tuple[None, dict[str, str]]:
        """Refuse, by ValueError, a way to save that would write a model without projections under transformers' names."""
        raise ValueError("a checkpoint of altq is saved by its own save_pretrained: call model.save_pretrained(folder)")

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False
