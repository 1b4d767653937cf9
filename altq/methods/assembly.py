"""Assembly: a selection picks its entries from the bank, the transforms are folded, the weights rounded.

What is folded where (in float64): the selected transform T stays online at qkv and gate_up and T^-T is folded into the
weights that read it; its scaling folds into the norm before. The value transform folds into v's output and o's input,
the mixing of heads stays online at o. Down's transform stays online; its scaling folds into up's rows, whose codes it
does not change. The key transform stays online, on keys and (its inverse transpose) on queries.
"""

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from altq.calibration.bank import Entry, read_entry
from altq.calibration.recipe import RoundingOptions
from altq.calibration.start import identity_transforms
from altq.calibration.states import WINDOWS_PER_BATCH, States, run_sublayer, token_weights
from altq.calibration.sublayer import QuantizedSublayer, fold_biases, fold_weights
from altq.files import atomic, read_json, write_json
from altq.methods.quantized_model import CHECKPOINT_FILE, WEIGHTS_FILE
from altq.models.skeleton import Skeleton
from altq.models.sublayer import HALVES, Sublayer, sublayer_name
from altq.models.weights import INDEX_FILE
from altq.precision import reduced_products
from altq.progress import progress
from altq.quantizers.gptq import factorize_hessian, gptq_round
from altq.quantizers.packing import pack_codes
from altq.quantizers.uniform import quantize, symmetric_scale
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
    names a kind without a bank.
    """
    skeleton, known, chosen = Skeleton(model), States(states), Selection.read(selection)
    _check(chosen, skeleton, banks, setting)
    hidden, arguments = known.state(0)[: rounding.windows], skeleton.block_arguments(known.length)
    tensors = skeleton.outer_tensors()
    blocks: list[dict[str, Any]] = [{} for _ in range(skeleton.num_blocks)]
    for s in progress(range(len(chosen.kinds)), f"assembling {chosen.policy} at {setting}"):
        block = skeleton.block(s // 2) if s % 2 == 0 else block
        sublayer = Sublayer(block, skeleton.family, HALVES[s % 2])
        entry = _entry(sublayer, s, chosen.kinds[s], banks, skeleton.config.num_key_value_heads)
        quantized = QuantizedSublayer(sublayer, entry.transforms, setting, signed=entry.signed)
        no_clipping = dict.fromkeys(quantized.clipping_factors(), torch.ones(()))
        quantized.load_clipping_factors(entry.clips or no_clipping)
        weights = token_weights(known.loss, known.state(s + 1)[: rounding.windows])
        rounded = round_sublayer(quantized, hidden, weights, arguments[s // 2], rounding)
        if rounding.weights == "gptq":
            hidden = run_sublayer(quantized.sublayer, hidden, arguments[s // 2])
        parts = export_sublayer(quantized, rounded, skeleton.family.norm_offset)
        tensors |= {f"{skeleton.weights.block_prefix(s // 2)}{name}": tensor for name, tensor in parts.items()}
        sites = {site: store(online(t))[0] for site, t in quantized.transforms.items()}
        blocks[s // 2][sublayer.name] = {"sites": sites, "signed": entry.signed}
    _write(Path(model), Path(folder), tensors, {"setting": str(setting), "policy": chosen.policy, "blocks": blocks})


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
        calibrated = read_json(bank / "index.json")["setting"]
        if calibrated != str(setting):
            raise ValueError(f"bank {bank} of {kind} was calibrated at {calibrated}, not at {setting}")


def _entry(sublayer: Sublayer, s: int, kind: str, banks: dict[str, Path], kv_heads: int) -> Entry:
    """The bank's entry for a kind; plain round-to-nearest for `identity`."""
    if kind == "identity":
        return Entry(identity_transforms(sublayer, kv_heads), {}, signed=False)
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
) -> dict[str, tuple[Tensor, Tensor]]:
    """Round the weights of a sublayer: projection -> (codes int8 [d_out, d_in], scale [d_out, 1]).

    They are folded in float64. GPTQ visits the sites in order and sums each Hessian over the inputs that the rounded
    model sees: hidden [windows, length, hidden], its tokens weighted by [windows, length, 1]. Leaves the rounded
    weights in the projections. At 16 bits the scale is empty and the codes are the folded weights themselves.
    """
    bits = quantized.setting.weights
    exact = copy.deepcopy(quantized.transforms).double()
    folded = fold_weights(exact, quantized.sites, {name: w.double() for name, w in quantized.weights.items()})
    quantized.prepare()
    rounded = {}
    for site, names in quantized.sites.items():
        factor = None
        if rounding.weights == "gptq" and bits != FULL_PRECISION_BITS:
            hessian = _hessian(quantized, site, hidden, weights, arguments)
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
    return rounded


def _hessian(
    quantized: QuantizedSublayer, site: str, hidden: Tensor, weights: Tensor, arguments: dict[str, Any]
) -> Tensor:
    """sum_t w_t x_t^T x_t over the quantized inputs of a site, [d, d]."""
    total = torch.zeros(quantized.transforms[site].size, quantized.transforms[site].size)
    token_weight = iter(weights.split(WINDOWS_PER_BATCH))

    def see(seen: str, x: Tensor) -> Tensor:
        if seen == site:
            rows = (x * next(token_weight).sqrt()).flatten(0, 1)
            with reduced_products():
                total.add_(rows.T @ rows)
        return x

    quantized.tap = see
    run_sublayer(quantized.sublayer, hidden, arguments)
    quantized.tap = None
    return total


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
    tensors |= {f"{name.partition('.')[2]}.clip": clip for name, clip in quantized.clipping_factors().items()
                if not name.startswith("weight.")}
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _write(model: Path, folder: Path, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    """The checkpoint folder: weights, the model's own config and tokenizer, and quantization.json at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / WEIGHTS_FILE) as partial:
        save_file(tensors, partial)
    for path in model.iterdir():
        if path.suffix in (".json", ".model", ".txt", ".jinja") and path.name not in ("source.json", INDEX_FILE):
            shutil.copyfile(path, folder / path.name)
    write_json(folder / CHECKPOINT_FILE, description)
