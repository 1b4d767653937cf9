"""A quantized checkpoint as it runs: transformers' model, its joints transform, quantize and multiply codes."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from altq.files import read_json
from altq.models.family import family_of
from altq.models.joints import ATTENTION, SharedInput, attach_cache_joint
from altq.models.skeleton import Skeleton
from altq.models.sublayer import HALVES, Sublayer
from altq.quantizers.integer import Codes, dequantized, integer_linear, quantize_tokens
from altq.quantizers.packing import unpack_codes
from altq.quantizers.uniform import fake_quantize_asymmetric
from altq.setting import FULL_PRECISION_BITS, Setting
from altq.transforms.storage import restore
from altq.transforms.transform import Transform

CHECKPOINT_FILE = "quantization.json"
WEIGHTS_FILE = "model.safetensors"


def load_model(folder: str | Path) -> nn.Module:
    """The model of a folder, ready for a forward pass: a quantized checkpoint, or a full-precision model."""
    if (Path(folder) / CHECKPOINT_FILE).is_file():
        return _load_checkpoint(Path(folder))
    return Skeleton(folder).fill()


def _load_checkpoint(folder: Path) -> nn.Module:
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
            try:
                _quantize_sublayer(Sublayer(block, family, half), parts, description["blocks"][index][half], setting)
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
    sublayer: Sublayer, tensors: dict[str, Tensor], structure: dict[str, Any], setting: Setting
) -> None:
    """Install the joints of one sublayer from the tensors of its block and the structure of its sites."""
    options = {name: structure[name] for name in ("signed", "asymmetric")}
    transforms = {
        site: restore(description, _below(f"{site}.transform.", tensors))
        for site, description in structure["sites"].items()
    }
    shared = {}
    for site, names in sublayer.half.input_sites.items():
        clip = tensors[f"{site}.clip"]
        read = partial(read_input, transforms[site], clip, setting.activations, **options)
        shared[site] = SharedInput(read, len(names))
    is_integer = FULL_PRECISION_BITS not in (setting.weights, setting.activations)
    projections = sublayer.install(shared, product=integer_linear if is_integer else _float_linear)
    for name, projection in projections.items():
        projection.weight = _weight(name, tensors, setting.weights)
        projection.bias = tensors.get(f"{name}.bias")
    if sublayer.name == "attention":
        clips = {site: tensors[f"{site}.clip"] for site in ("key", "value")}
        attach_cache_joint(sublayer.module, partial(_read_cache, transforms["key"], clips, setting))


def _weight(name: str, tensors: dict[str, Tensor], bits: int) -> Tensor | Codes:
    if bits == FULL_PRECISION_BITS:
        return tensors[f"{name}.weight"]
    length = int(tensors[f"{name}.length"])
    return Codes(unpack_codes(tensors[f"{name}.codes"], bits, length).float(), tensors[f"{name}.scale"])


def read_input(transform: Transform, clip: Tensor, bits: int, x: Tensor, **options: bool) -> Tensor | Codes:
    """What the projections of a site share: its input, transformed and quantized."""
    x = transform.apply_to(x)
    return x if bits == FULL_PRECISION_BITS else quantize_tokens(x, bits, clip, **options)


def _float_linear(x: Tensor | Codes, weight: Tensor | Codes) -> Tensor:
    return F.linear(dequantized(x), dequantized(weight))


def _read_cache(
    transform: Transform, clips: dict[str, Tensor], setting: Setting, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    query, key = transform.apply_to_queries(query), transform.apply_to_keys(key)
    if setting.keys != FULL_PRECISION_BITS:
        key = fake_quantize_asymmetric(key, setting.keys, clips["key"])
    if setting.values != FULL_PRECISION_BITS:
        value = fake_quantize_asymmetric(value, setting.values, clips["value"])
    return query, key, value


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
