"""A quantized checkpoint as it runs: transformers' model, its joints transform, quantize and multiply codes."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from altq.checkpoint.decoding_cache import is_quantized, quantize_caches
from altq.checkpoint.format import CheckpointWeights, Structure, is_checkpoint
from altq.checkpoint.saving import save_checkpoint
from altq.experiment.kinds import HALVES
from altq.experiment.setting import Setting
from altq.models.joints import CacheJoint, SharedInput, attach_cache_joint
from altq.models.skeleton import Skeleton
from altq.models.sublayer import Sublayer
from altq.quantizers.integer import Codes, quantized_linear
from altq.quantizers.packing import unpack_codes
from altq.quantizers.quantizer import Quantizer, Quantizers
from altq.quantizers.weight_codes import WeightCodes, WeightGrid
from altq.runtime.device import CPU
from altq.transforms.heads import HeadTransform
from altq.transforms.storage import restore
from altq.transforms.transform import Transform


def open_model(folder: str | Path, device: torch.device = CPU) -> Skeleton:
    """The model of a folder, of which blocks are read one at a time: a quantized checkpoint, or in full precision."""
    return QuantizedSkeleton(folder, device=device) if is_checkpoint(folder) else Skeleton(folder, device=device)


def load_model(folder: str | Path, device: torch.device = CPU) -> PreTrainedModel:
    """The model of a folder with all its blocks in a device's memory, ready for a forward pass; see `open_model`."""
    return open_model(folder, device).fill()


class Site(NamedTuple):
    """One input site of a checkpoint: the projections that share the input, its transform, all tensors of its block."""

    names: tuple[str, ...]
    transform: Transform
    clip: Tensor
    quantizers: Quantizers
    tensors: dict[str, Tensor]


class Operand(NamedTuple):
    """Weight that a projection multiplies its site's shared input with, and the bias that it adds."""

    weight: Any
    bias: Tensor | None


class Products(NamedTuple):
    """How the projections of a site are computed: y = product(read(x), weight) + bias for each of them."""

    read: Callable[[Tensor], Any]
    product: Callable[[Any, Any], Tensor]
    operands: list[Operand]


def integer_products(site: Site) -> Products:
    """Products of codes held as floats: what the packed kernels compute, in plain torch."""
    read = partial(read_input, site.transform, site.clip, site.quantizers.activations)
    operands = [
        Operand(_weight(name, site.tensors, site.quantizers.weights), site.tensors.get(f"{name}.bias"))
        for name in site.names
    ]
    return Products(read, quantized_linear, operands)


def weight_codes(name: str, tensors: dict[str, Tensor], quantizer: Quantizer) -> WeightCodes:
    """The codes of a projection and their grid; ValueError where its tensors do not go together."""
    bits, scale, zero = quantizer.bits, tensors[f"{name}.scale"].float(), None
    codes = unpack_codes(tensors[f"{name}.codes"], bits, int(tensors[f"{name}.length"]))
    if quantizer.asymmetric:
        zero = unpack_codes(tensors[f"{name}.zero"], bits, scale.shape[-1])
    return WeightCodes(codes, WeightGrid(bits, scale, zero, quantizer.group))


def _weight(name: str, tensors: dict[str, Tensor], quantizer: Quantizer) -> Tensor | Codes:
    if quantizer.is_identity:
        return tensors[f"{name}.weight"]
    return weight_codes(name, tensors, quantizer).factored()


def read_input(transform: Transform, clip: Tensor, quantizer: Quantizer, x: Tensor) -> Tensor | Codes:
    """The input [..., d_in] that the projections of a site share, transformed and quantized."""
    return quantizer.codes(transform.apply_to(x), clip)


class CacheReader:
    """The joint of queries, keys and values: the key transform and the quantizers of the cache.

    Keys and values that went through `keys_and_values` when they were appended to a cache are left as they are
    (altq/checkpoint/decoding_cache.py).
    """

    def __init__(self, transform: HeadTransform, clips: dict[str, Tensor], quantizers: Quantizers) -> None:
        self.factors, self.dual_factors = transform.factors.detach(), transform.dual_factors.detach()
        self.clips, self.quantizers = clips, quantizers
        self._query_factors = self.dual_factors  # one for each query head, once their number is seen

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = query.shape[-3]
        if len(self._query_factors) != heads:
            self._query_factors = self.dual_factors.repeat_interleave(heads // len(self.dual_factors), dim=0)
        if not is_quantized(key):
            key, value = self.keys_and_values(key, value)
        return query @ self._query_factors, key, value

    def keys_and_values(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Transformed, quantized and dequantized, each token and head by itself: [b, kv_heads, t, d]."""
        key = self.quantizers.keys.fake(key @ self.factors, self.clips["key"])
        return key, self.quantizers.values.fake(value, self.clips["value"])


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def quantize_block(
    module: nn.Module,
    weights: CheckpointWeights,
    block: int,
    products: Callable[[Site], Products] = integer_products,
    cache_reader: Callable[..., CacheJoint] = CacheReader,
    device: torch.device = CPU,
) -> None:
    """Give transformers' module of block `block` its weights, on a device, and its joints.

    products: how the projections of each input site are computed. cache_reader: makes the joint of its attention from
    what `CacheReader` takes. ValueError where the checkpoint lacks something or cannot be read.
    """
    tensors = {name: tensor.to(device) for name, tensor in weights.block(block).items()}
    prefix = weights.block_prefix(block)
    setting = Setting.parse(weights.description.setting)
    try:
        for half in HALVES:
            structure = getattr(weights.description.blocks[block], half)
            _quantize(
                Sublayer(module, weights.family, half),
                tensors,
                structure=structure,
                setting=setting,
                products=products,
                cache_reader=cache_reader,
            )
    except KeyError as missing:
        raise _lacking(weights, f"{prefix}{missing.args[0]}") from missing
    known = module.state_dict().keys()
    module.load_state_dict({n: t for n, t in tensors.items() if n in known}, strict=False, assign=True)
    for name, parameter in module.named_parameters():
        if parameter.is_meta:
            raise _lacking(weights, f"{prefix}{name}")
    module.requires_grad_(False)


def _lacking(weights: CheckpointWeights, name: str) -> ValueError:
    return ValueError(f"{weights.folder} lacks {name}; {weights.source.remedy}")


def _quantize(
    sublayer: Sublayer,
    tensors: dict[str, Tensor],
    structure: Structure,
    setting: Setting,
    products: Callable[[Site], Products],
    cache_reader: Callable[..., CacheJoint],
) -> None:
    """Install the joints of one sublayer from the tensors of its block and the structure of its sites."""
    quantizers = Quantizers.at(setting, **structure.options)
    transforms = {
        site: restore(description, _below(f"{site}.transform.", tensors))
        for site, description in structure.sites.items()
    }
    made = {
        site: products(
            Site(
                names=names,
                transform=transforms[site],
                clip=tensors[f"{site}.clip"],
                quantizers=quantizers,
                tensors=tensors,
            )
        )
        for site, names in sublayer.half.input_sites.items()
    }
    projections = sublayer.install({site: SharedInput(of.read, len(of.operands)) for site, of in made.items()})
    for site, names in sublayer.half.input_sites.items():
        for name, operand in zip(names, made[site].operands, strict=True):
            projections[name].product = made[site].product
            projections[name].weight, projections[name].bias = operand
    if sublayer.name == "attention":
        clips = {site: tensors[f"{site}.clip"] for site in ("key", "value")}
        attach_cache_joint(sublayer.module, cache_reader(transforms["key"], clips, quantizers))


class QuantizedSkeleton(Skeleton):
    """A checkpoint driven block by block: transformers' blocks with our joints in them, as `quantize_block` makes them."""

    weights: CheckpointWeights

    def __init__(
        self,
        folder: str | Path,
        products: Callable[[Site], Products] = integer_products,
        cache_reader: Callable[..., CacheJoint] = CacheReader,
        device: torch.device = CPU,
    ) -> None:
        super().__init__(folder, device=device)
        self._products, self._cache_reader = products, cache_reader
        self.setting = Setting.parse(self.weights.description.setting)

    def _open_weights(self, folder: str | Path) -> CheckpointWeights:
        return CheckpointWeights(folder)

    def _require_tensors(self) -> None:
        """None: a projection has codes, or at 16 bits a weight, and what is missing is named when it is read."""

    def block(self, block: int) -> nn.Module:
        """A new module of block `block` with its weights and joints."""
        module = copy.deepcopy(self._blocks[block])
        quantize_block(
            module,
            self.weights,
            block=block,
            products=self._products,
            cache_reader=self._cache_reader,
            device=self.device,
        )
        return module

    def fill(self) -> PreTrainedModel:
        """The whole model with all its blocks resident, whose caches are quantized as they grow, and which can be saved."""
        model = super().fill()
        quantize_caches(model)
        model.save_pretrained = partial(save_checkpoint, model, self.weights)  # type: ignore[method-assign]  # for this model alone
        return model
