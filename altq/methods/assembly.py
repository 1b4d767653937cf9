"""Assembly: a selection picks its entries from the bank, the transforms are folded, the weights rounded.

What is folded where (in float64): the selected transform T stays online at qkv and gate_up and T^-T is folded into the
weights that read it; its scaling folds into the norm before. The value transform folds into v's output and o's input,
the mixing of heads stays online at o. Down's transform stays online; its scaling folds into up's rows, whose codes it
does not change. The key transform stays online, on keys and (its inverse transpose) on queries. A rotation of the
residual stream folds away whole (altq/models/residual.py).
"""

import copy
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from altq.calibration.bank import Entry, read_entry, read_index, read_residual
from altq.methods.rounding import RoundingOptions
from altq.calibration.states import WINDOWS_PER_BATCH, States, batches, token_weights
from altq.calibration.sublayer import QuantizedSublayer, fold_biases, fold_weights, identity_transforms
from altq.files import atomic, read_json, write_json
from altq.methods.quantized_model import CHECKPOINT_FILE, WEIGHTS_FILE, read_input
from altq.models.skeleton import Skeleton
from altq.models.sublayer import HALVES, Sublayer, sublayer_name
from altq.models.weights import CONFIG_FILE, INDEX_FILE
from altq.precision import reduced_products
from altq.progress import progress
from altq.quantizers.gptq import factorize_hessian, gptq_round
from altq.quantizers.integer import Codes, dequantized
from altq.quantizers.packing import pack_codes
from altq.quantizers.uniform import quantize
from altq.selection.selection import Selection
from altq.setting import FULL_PRECISION_BITS, Setting
from altq.transforms.identity import Identity
from altq.transforms.scaling import Scaled, Scaling
from altq.transforms.storage import store
from altq.transforms.transform import Transform


def assemble(
    model: str | Path,
    states: str | Path,
    selection: str | Path,
    banks: dict[str, Path],
    setting: Setting,
    rounding: RoundingOptions,
    folder: str | Path,
) -> None:
    """Write the quantized checkpoint of a selection to `folder`, quantization.json last.

    banks: kind -> folder of its bank; `identity` needs none. ValueError where the selection is of another model or
    names a kind without a bank, or where banks do not share the rotation of the residual stream.
    """
    skeleton = Skeleton(model, rotation=_shared_rotation(banks))
    known, chosen = States(states), Selection.read(selection)
    _check(chosen, skeleton, banks, setting)
    hidden, arguments = skeleton.embed(known.tokens()[: rounding.windows]), skeleton.block_arguments(known.length)
    tensors = dict(skeleton.outer_tensors)
    blocks: list[dict[str, Any]] = [{} for _ in range(skeleton.num_blocks)]
    for s in progress(range(len(chosen.kinds)), f"assembling {chosen.policy} at {setting}"):
        block = skeleton.block(s // 2) if s % 2 == 0 else block
        sublayer = Sublayer(block, skeleton.family, HALVES[s % 2])
        entry = _entry(sublayer, s, chosen.kinds[s], banks, skeleton.config.num_key_value_heads)
        quantized = entry.restore(sublayer, setting)
        weights = token_weights(known.loss, known.state(s + 1)[: rounding.windows])
        rounded, hidden = round_sublayer(quantized, hidden, weights, arguments[s // 2], rounding)
        parts = export_sublayer(quantized, rounded, skeleton.family.norm_offset)
        tensors |= {f"{skeleton.weights.block_prefix(s // 2)}{name}": tensor for name, tensor in parts.items()}
        sites = {site: store(online(t))[0] for site, t in quantized.transforms.items()}
        blocks[s // 2][sublayer.name] = {"sites": sites, **quantized.options}
    config = read_json(Path(model) / CONFIG_FILE) | {"tie_word_embeddings": skeleton.config.tie_word_embeddings}
    description = {"setting": str(setting), "policy": chosen.policy, "blocks": blocks}
    _write(Path(model), Path(folder), tensors, config, description)


def _check(selection: Selection, skeleton: Skeleton, banks: dict[str, Path], setting: Setting) -> None:
    if selection.num_blocks != skeleton.num_blocks:
        raise ValueError(
            f"the selection is of {selection.model!r} with {selection.num_blocks} blocks, but the model has "
            f"{skeleton.num_blocks}; select for this model"
        )
    missing = sorted(set(selection.kinds) - set(banks) - {"identity"})
    if missing:
        raise ValueError(f"selection {selection.policy!r} names {', '.join(missing)}, but no such bank is given")
    for kind, bank in banks.items():
        index = read_index(bank)
        if index["setting"] != str(setting):
            raise ValueError(f"bank {bank} of {kind} was calibrated at {index['setting']}, not at {setting}")
        if index.get("kind", kind) != kind:
            raise ValueError(f"bank {bank} is of {index['kind']}, not of {kind}")


def _shared_rotation(banks: dict[str, Path]) -> Tensor | None:
    """The rotation of the residual stream in which all banks stand; None for none."""
    rotations = {bank: read_residual(bank) for bank in banks.values()}
    shared = next((rotation for rotation in rotations.values() if rotation is not None), None)
    for bank, rotation in rotations.items():
        if shared is not None and (rotation is None or not torch.equal(rotation, shared)):
            raise ValueError(f"bank {bank} stands in another rotation of the residual stream; it cannot be mixed in")
    return shared


def _entry(sublayer: Sublayer, s: int, kind: str, banks: dict[str, Path], kv_heads: int) -> Entry:
    """The bank's entry for a kind; plain round-to-nearest for an `identity` that has no bank."""
    if kind not in banks:
        return Entry(identity_transforms(sublayer, kv_heads), {}, signed=False, asymmetric=False)
    entry = read_entry(banks[kind], s)
    for site, transform in entry.transforms.items():
        ok, reason = transform.check()
        if not ok:
            raise ValueError(f"bank entry of {sublayer_name(s)}, site {site}: {reason}; calibrate it again")
    return entry


def online(transform: Transform) -> Transform:
    """The part of a transform that stays in the forward pass: all but its scaling."""
    if isinstance(transform, Scaled):
        return transform.online
    return Identity(transform.size) if isinstance(transform, Scaling) else transform


def scaling_of(transform: Transform) -> Tensor | None:
    """The scaling [size] of a transform, which folds into what lies before its site; None where it has none."""
    if isinstance(transform, Scaled):
        transform = transform.scaling
    return transform.scale if isinstance(transform, Scaling) else None


@torch.no_grad()
def round_sublayer(
    quantized: QuantizedSublayer, hidden: Tensor, weights: Tensor, arguments: dict[str, Any], rounding: RoundingOptions
) -> tuple[dict[str, tuple[Tensor, Tensor]], Tensor]:
    """Round the weights of a sublayer: projection -> (codes int8 [d_out, d_in], scale [d_out, 1]).

    They are folded in float64. GPTQ visits the two sites in order and sums each Hessian over the inputs that the
    rounded model sees: hidden [windows, length, hidden], its tokens weighted by [windows, length, 1]. Returns, beside
    the codes, `hidden` after the rounded sublayer; nothing reads it where no Hessian is summed, and it stays as it is.
    At 16 bits the scale is empty and the codes are the folded weights themselves.
    """
    bits = quantized.setting.weights
    exact = copy.deepcopy(quantized.transforms).double()
    folded = fold_weights(exact, quantized.sites, {name: w.double() for name, w in quantized.weights.items()})
    for name, bias in fold_biases(quantized.transforms, quantized.sites, quantized.biases).items():
        quantized.projections[name].bias = bias
    sums_hessians = rounding.weights == "gptq" and bits != FULL_PRECISION_BITS
    rounded = {}
    for site, names in quantized.sites.items():
        factor = None
        if sums_hessians:
            inputs = site_inputs(quantized, site, hidden, arguments)
            hessian = _hessian(inputs, weights)
            factor = factorize_hessian(hessian, damping=rounding.damping, act_order=rounding.act_order)
        for name in names:
            weight = folded[name].float().contiguous()
            if bits == FULL_PRECISION_BITS:
                rounded[name] = weight, torch.empty(0)
                quantized.projections[name].weight = weight
                continue
            scale = quantized.quantized_weight_scale(name, weight)
            if factor is None:
                codes = quantize(weight, scale, bits).to(torch.int8)
            else:
                # GPTQ wants positive scales: the sign moves to the weight, and the codes are the same.
                codes = gptq_round(weight * scale.sign(), scale.abs(), bits, factor, block_size=rounding.block_size)
            rounded[name] = codes, scale
            quantized.projections[name].weight = codes * scale
    return rounded, _advance(quantized, inputs, hidden) if sums_hessians else hidden


def site_inputs(
    quantized: QuantizedSublayer, site: str, hidden: Tensor, arguments: dict[str, Any]
) -> list[Codes | Tensor]:
    """What the projections of a site read, by batches of windows; its codes take two bytes each.

    The first site needs nothing but the norm, the last one all but its own projection.
    """
    sublayer = quantized.sublayer
    read = partial(
        read_input, quantized.transforms[site], quantized.activation_clip[site](), quantized.setting.activations,
        **quantized.options,
    )  # fmt: skip
    inputs = []
    for rows in batches(len(hidden)):
        x = sublayer.norm(hidden[rows])
        if site != sublayer.half.selected_site:
            x = sublayer.before_output(x, arguments)
        x = read(x)
        inputs.append(Codes(x.codes.to(torch.int16), x.scale) if isinstance(x, Codes) else x)
    return inputs


def _hessian(inputs: list[Codes | Tensor], weights: Tensor) -> Tensor:
    """sum_t w_t x_t^T x_t over the quantized inputs of a site, [d, d]."""
    total = 0
    for x, token_weight in zip(inputs, weights.split(WINDOWS_PER_BATCH), strict=True):
        rows = (dequantized(x) * token_weight.sqrt()).flatten(0, 1)
        with reduced_products():
            total = total + rows.T @ rows
    return total


def _advance(quantized: QuantizedSublayer, inputs: list[Codes | Tensor], hidden: Tensor) -> Tensor:
    """The residual stream after a sublayer, from the inputs of its last projection."""
    *_, last = quantized.projections.values()
    outputs = torch.empty_like(hidden)
    for rows, x in zip(batches(len(hidden)), inputs, strict=True):
        outputs[rows] = hidden[rows] + quantized.sublayer.output_norm(last.project(dequantized(x)))
    return outputs


def export_sublayer(
    quantized: QuantizedSublayer, rounded: dict[str, tuple[Tensor, Tensor]], norm_offset: float
) -> dict[str, Tensor]:
    """The tensors of a sublayer as the checkpoint holds them, by their name below the block."""
    bits = quantized.setting.weights
    half = quantized.sublayer.half
    scalings = {site: scaling_of(transform) for site, transform in quantized.transforms.items()}
    # A diagonal behind up's rows changes their scales and none of their codes.
    rows_before_down = {half.input_sites["gate_up"][-1]: scalings["down"]} if "down" in scalings else {}
    tensors: dict[str, Tensor] = {}
    for name, (codes, scale) in rounded.items():
        rows = rows_before_down.get(name)
        if bits == FULL_PRECISION_BITS:
            tensors[f"{name}.weight"] = codes if rows is None else codes * rows.unsqueeze(1)
        else:
            tensors[f"{name}.codes"] = pack_codes(codes, bits)
            tensors[f"{name}.length"] = torch.tensor(codes.shape[1])
            tensors[f"{name}.scale"] = scale if rows is None else scale * rows.unsqueeze(1)
    for name, bias in fold_biases(quantized.transforms, quantized.sites, quantized.biases).items():
        rows = rows_before_down.get(name)
        tensors[f"{name}.bias"] = bias if rows is None else bias * rows
    gain = norm_offset + quantized.sublayer.norm.weight.double()
    if (scale := scalings[half.selected_site]) is not None:
        gain = gain * scale.double()
    tensors[f"{half.norm}.weight"] = (gain - norm_offset).float()
    if half.output_norm:
        tensors[f"{half.output_norm}.weight"] = quantized.sublayer.output_norm.weight
    # What the module holds besides its projections: the norms of queries and keys.
    tensors |= {f"{half.module}.{name}": tensor for name, tensor in quantized.sublayer.module.named_parameters()}
    for site, transform in quantized.transforms.items():
        tensors |= {f"{site}.transform.{name}": part for name, part in store(online(transform))[1].items()}
    tensors |= {
        f"{name.partition('.')[2]}.clip": clip
        for name, clip in quantized.clipping_factors().items()
        if not name.startswith("weight.")
    }
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _write(
    model: Path, folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], description: dict[str, Any]
) -> None:
    """The checkpoint folder: weights, config, the model's own tokenizer, and quantization.json at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / WEIGHTS_FILE) as partial:
        save_file(tensors, partial)
    for path in model.iterdir():
        if path.suffix in (".json", ".model", ".txt", ".jinja") and path.name not in ("source.json", INDEX_FILE):
            shutil.copyfile(path, folder / path.name)
    write_json(folder / CONFIG_FILE, config)
    write_json(folder / CHECKPOINT_FILE, description)
