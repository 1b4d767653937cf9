"""A quantized checkpoint as it runs: transformers' model, its joints transform, quantize and multiply codes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from altq.files import read_json
from altq.models.family import family_of
from altq.models.joints import ATTENTION, CacheJoint, SharedInput, attach_cache_joint
from altq.models.skeleton import Skeleton
from altq.models.sublayer import HALVES, Sublayer
from altq.quantizers.integer import Codes, dequantized, integer_linear, quantize_tokens
from altq.quantizers.packing import unpack_codes
from altq.quantizers.uniform import fake_quantize_asymmetric
from altq.setting import FULL_PRECISION_BITS, Setting
from altq.transforms.heads import HeadTransform
from altq.transforms.storage import restore
from altq.transforms.transform import Transform

CHECKPOINT_FILE = "quantization.json"
WEIGHTS_FILE = "model.safetensors"


def load_model(folder: str | Path) -> nn.Module:
    """The model of a folder, ready for a forward pass: a quantized checkpoint, or a full-precision model."""
    if (Path(folder) / CHECKPOINT_FILE).is_file():
        return load_checkpoint(Path(folder), integer_products, CacheReader)
    return Skeleton(folder).fill()


class Site(NamedTuple):
    """One input site of a checkpoint: the projections that share the input, its transform, all tensors of its block."""

    names: tuple[str, ...]
    transform: Transform
    clip: Tensor
    options: dict[str, bool]  # signed, asymmetric
    tensors: dict[str, Tensor]
    setting: Setting


class Operand(NamedTuple):
    """What a projection multiplies its site's shared input with, and what it adds."""

    weight: Any
    bias: Tensor | None


class Products(NamedTuple):
    """How the projections of a site are computed: y = product(read(x), weight) + bias for each of them."""

    read: Callable[[Tensor], Any]
    product: Callable[[Any, Any], Tensor]
    operands: list[Operand]


def load_checkpoint(
    folder: Path, products: Callable[[Site], Products], cache_reader: Callable[..., CacheJoint]
) -> nn.Module:
    """The model of a checkpoint; `products` says how the projections of each input site are computed.

    cache_reader: makes the joint of a block's attention from what `CacheReader` takes.

    ValueError where the checkpoint lacks something or cannot be read.
    """
    description = read_json(folder / CHECKPOINT_FILE)
    setting = Setting.parse(description["setting"])
    config = AutoConfig.from_pretrained(folder)
    family = family_of(config.model_type)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION, dtype=torch.float32)
    tensors = _read_tensors(folder / WEIGHTS_FILE)
    blocks = model.get_submodule(family.blocks)
    for index, block in enumerate(blocks):
        for half in HALVES:
            name = f"{family.blocks}.{index}."
            parts = {n.removeprefix(name): tensors[n] for n in tensors if n.startswith(name)}
            structure = description["blocks"][index][half]
            try:
                _quantize_sublayer(Sublayer(block, family, half), parts, structure, setting, products, cache_reader)
            except KeyError as missing:
                raise ValueError(
                    f"{folder / WEIGHTS_FILE} lacks {name}{missing.args[0]}; assemble the checkpoint again"
                ) from missing
    known = model.state_dict().keys()
    model.load_state_dict({n: t for n, t in tensors.items() if n in known}, strict=False, assign=True)
    model.tie_weights()
    left = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if left:
        raise ValueError(f"{folder / WEIGHTS_FILE} lacks {', '.join(left[:3])}; assemble the checkpoint again")
    return model.eval().requires_grad_(False)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"checkpoint {path} cannot be read ({error}); delete it and assemble it again") from error


def _quantize_sublayer(
    sublayer: Sublayer,
    tensors: dict[str, Tensor],
    structure: dict[str, Any],
    setting: Setting,
    products: Callable[[Site], Products],
    cache_reader: Callable[..., CacheJoint],
) -> None:
    """Install the joints of one sublayer from the tensors of its block and the structure of its sites."""
    options = {name: structure[name] for name in ("signed", "asymmetric")}
    transforms = {
        site: restore(description, _below(f"{site}.transform.", tensors))
        for site, description in structure["sites"].items()
    }
    made = {
        site: products(Site(names, transforms[site], tensors[f"{site}.clip"], options, tensors, setting))
        for site, names in sublayer.half.input_sites.items()
    }
    shared = {site: SharedInput(made[site].read, len(made[site].operands)) for site in made}
    projections = sublayer.install(shared)
    for site, names in sublayer.half.input_sites.items():
        for name, operand in zip(names, made[site].operands, strict=True):
            projections[name].product = made[site].product
            projections[name].weight, projections[name].bias = operand
    if sublayer.name == "attention":
        clips = {site: tensors[f"{site}.clip"] for site in ("key", "value")}
        attach_cache_joint(sublayer.module, cache_reader(transforms["key"], clips, setting))


def integer_products(site: Site) -> Products:
    """Products of codes held as floats: what the packed kernels compute, in plain torch."""
    setting = site.setting
    is_integer = FULL_PRECISION_BITS not in (setting.weights, setting.activations)
    read = partial(read_input, site.transform, site.clip, setting.activations, **site.options)
    operands = [
        Operand(_weight(name, site.tensors, setting.weights), site.tensors.get(f"{name}.bias")) for name in site.names
    ]
    return Products(read, integer_linear if is_integer else _float_linear, operands)


def weight_codes(name: str, tensors: dict[str, Tensor], bits: int) -> tuple[Tensor, Tensor]:
    """The codes of a projection, int8 [d_out, d_in], and their scales [d_out, 1]."""
    length = int(tensors[f"{name}.length"])
    return unpack_codes(tensors[f"{name}.codes"], bits, length), tensors[f"{name}.scale"]


def _weight(name: str, tensors: dict[str, Tensor], bits: int) -> Tensor | Codes:
    if bits == FULL_PRECISION_BITS:
        return tensors[f"{name}.weight"]
    codes, scale = weight_codes(name, tensors, bits)
    return Codes(codes.float(), scale)


def read_input(transform: Transform, clip: Tensor, bits: int, x: Tensor, **options: bool) -> Tensor | Codes:
    """What the projections of a site share: its input, transformed and quantized."""
    x = transform.apply_to(x)
    return x if bits == FULL_PRECISION_BITS else quantize_tokens(x, bits, clip, **options)


def _float_linear(x: Tensor | Codes, weight: Tensor | Codes) -> Tensor:
    return F.linear(dequantized(x), dequantized(weight))


class CacheReader:
    """The joint of queries, keys and values: the key transform and the quantizers of the cache.

    holds_read_cache: keys and values come from a cache that went through `keys_and_values` when they were appended
    (altq/methods/decoding_cache.py), and are left as they are.
    """

    def __init__(self, transform: HeadTransform, clips: dict[str, Tensor], setting: Setting) -> None:
        self.factors, self.dual_factors = transform.factors.detach(), transform.dual_factors.detach()
        self.clips, self.setting = clips, setting
        self.holds_read_cache = False
        self._query_factors = self.dual_factors  # one for each query head, once their number is seen

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = query.shape[-3]
        if len(self._query_factors) != heads:
            self._query_factors = self.dual_factors.repeat_interleave(heads // len(self.dual_factors), dim=0)
        if not self.holds_read_cache:
            key, value = self.keys_and_values(key, value)
        return query @ self._query_factors, key, value

    def keys_and_values(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Transformed, quantized and dequantized, each token and head by itself: [b, kv_heads, t, d]."""
        key = key @ self.factors
        if self.setting.keys != FULL_PRECISION_BITS:
            key = fake_quantize_asymmetric(key, self.setting.keys, self.clips["key"])
        if self.setting.values != FULL_PRECISION_BITS:
            value = fake_quantize_asymmetric(value, self.setting.values, self.clips["value"])
        return key, value


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
