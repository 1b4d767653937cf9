"""Assembly: a selection picks its entries from the bank, the transforms are folded, the weights rounded.

What is folded where (in float64): the selected transform T stays online at qkv and gate_up and T^-T is folded into the
weights that read it; its scaling folds into the norm before, and stays online where there is none. The value transform
folds into v's output and o's input, the mixing of heads stays online at o. Down's transform stays online; its scaling
folds into up's rows, whose codes it does not change. The key transform stays online, on keys and (its inverse transpose)
on queries. A rotation of the residual stream folds away whole (altq/models/residual.py).
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from altq.calibration.subject import Subject
from altq.calibration.sublayer import QuantizedSublayer, fold_biases
from altq.checkpoint.folding import online_transforms, rows_before_down, scaling_of
from altq.checkpoint.format import begin_checkpoint, finish_checkpoint, part_path, write_part
from altq.checkpoint.rounding import Inputs, round_sublayer
from altq.checkpoint.scheme import Scheme
from altq.experiment.kinds import HALVES, sublayer_name
from altq.experiment.windows import require_windows
from altq.models.config_file import CONFIG_FILE
from altq.models.residual_stream import ResidualStream
from altq.models.skeleton import Skeleton
from altq.models.sublayer import Sublayer
from altq.quantizers.packing import pack_codes
from altq.quantizers.weight_codes import WeightCodes
from altq.runtime.device import CPU
from altq.runtime.files import read_json
from altq.runtime.progress import progress
from altq.runtime.resume import Scratch
from altq.transforms.storage import store


@torch.no_grad()
def assemble(
    model_folder: str | Path,
    states_folder: str | Path,
    scheme: Scheme,
    folder: str | Path,
    *,
    fingerprint: str,
    device: torch.device = CPU,
) -> None:
    """Write the quantized checkpoint of a scheme to `folder`, quantization.json last.

    One block is in memory at a time. A run of the same `fingerprint` that was stopped goes on at the sublayer where it
    stopped. ValueError where the selection is of another model or names a kind without a bank, where banks do not share
    the rotation of the residual stream, or where GPTQ is to look at more windows than the states have.
    """
    folder = Path(folder)
    subject = Subject.open(model_folder, states_folder, rotation=scheme.rotation(), device=device)
    skeleton, states, rounding = subject.skeleton, subject.states, scheme.rounding
    scheme.check(skeleton.num_blocks)
    require_windows(rounding, states.num_windows)
    num_sublayers = subject.num_sublayers
    # Rounding to nearest looks at no window; one keeps the stream a stream.
    windows = slice(rounding.windows if rounding.weights == "gptq" else 1)
    tokens = states.tokens()[windows]
    begin_checkpoint(folder)
    outer = part_path(folder, 0, num_sublayers)
    write_part(outer, _outer_tensors(skeleton))
    shape = (*tokens.shape, skeleton.config.hidden_size)

    def assemble_sublayer(s: int, hidden: Tensor, outputs: Tensor) -> dict[str, Any]:
        """Round a sublayer and write its part: the names of the part's tensors, and the structure of its sites."""
        sublayer = Sublayer(skeleton.resident_block(s // 2), skeleton.family, HALVES[s % 2])
        entry = scheme.entry(s, sublayer, kv_heads=skeleton.config.num_key_value_heads)
        quantized = entry.restore(sublayer, scheme.setting)
        weights = states.token_weights(s)[windows]
        inputs = Inputs(hidden, weights, subject.arguments[s // 2])
        rounded = round_sublayer(quantized, inputs, outputs=outputs, rounding=rounding, name=sublayer_name(s))
        parts = export_sublayer(quantized, rounded, skeleton.family.norm_offset)
        prefix = skeleton.weights.block_prefix(s // 2)
        write_part(part_path(folder, s + 1, num_sublayers), {prefix + name: part for name, part in parts.items()})
        sites = {site: store(t)[0] for site, t in online_transforms(quantized).items()}
        return {
            "names": [prefix + name for name in parts],
            "structure": {"sites": sites, **quantized.quantizers.options},
        }

    with (
        Scratch(folder / "residual_stream.scratch", fingerprint, device.type) as scratch,
        ResidualStream(scratch, shape, partial(skeleton.embed_into, tokens), device) as stream,
    ):
        for s in progress(
            range(stream.step, num_sublayers), f"assembling {scheme.selection.policy} at {scheme.setting}"
        ):
            stream.advance(partial(assemble_sublayer, s), [part_path(folder, s + 1, num_sublayers)])
        structures = [part["structure"] for part in stream.notes]
        description = scheme.labels | {
            "policy": scheme.selection.policy,
            "devices": scratch.devices,
            "blocks": [dict(zip(HALVES, structures[s : s + 2], strict=True)) for s in range(0, num_sublayers, 2)],
        }
        tied = {"tie_word_embeddings": skeleton.config.tie_word_embeddings}
        finish_checkpoint(
            folder,
            Path(model_folder),
            names={outer.name: list(skeleton.outer_tensors)}
            | {part_path(folder, s + 1, num_sublayers).name: part["names"] for s, part in enumerate(stream.notes)},
            config=read_json(Path(model_folder) / CONFIG_FILE) | tied,
            description=description,
        )


def _outer_tensors(skeleton: Skeleton) -> dict[str, Tensor]:
    """Embedding, last norm and head in the model's own type; in float32 where a rotation is folded in."""
    if skeleton.residual:
        return skeleton.outer_tensors
    # Of two that are tied the file may have either alone.
    stored = skeleton.weights.names
    return {
        name: skeleton.weights.tensor(name) if name in stored else tensor
        for name, tensor in skeleton.outer_tensors.items()
    }


def export_sublayer(
    quantized: QuantizedSublayer, rounded: dict[str, WeightCodes | Tensor], norm_offset: float
) -> dict[str, Tensor]:
    """The tensors of a sublayer as the checkpoint holds them, by their name below the block."""
    half, before_down = quantized.sublayer.half, rows_before_down(quantized)
    tensors: dict[str, Tensor] = {}
    for name, weight in rounded.items():
        rows = before_down.get(name)
        if isinstance(weight, WeightCodes):
            grid = weight.grid
            scale = grid.scale if rows is None else grid.scale * rows.unsqueeze(1)
            tensors[f"{name}.codes"] = pack_codes(weight.codes, grid.bits)
            tensors[f"{name}.length"] = torch.tensor(weight.codes.shape[1])
            # Those of groups are numbers of bfloat16, see `Quantizer.grid`.
            tensors[f"{name}.scale"] = scale if grid.group is None else scale.bfloat16()
            if grid.zero is not None:
                tensors[f"{name}.zero"] = pack_codes(grid.zero, grid.bits)
        else:
            tensors[f"{name}.weight"] = weight if rows is None else weight * rows.unsqueeze(1)
    for name, bias in fold_biases(quantized.transforms, quantized.sites, quantized.biases).items():
        rows = before_down.get(name)
        tensors[f"{name}.bias"] = bias if rows is None else bias * rows
    if half.norm:
        gain = norm_offset + quantized.sublayer.norm.get_parameter("weight").double()
        if (scaling := scaling_of(quantized.transforms[half.selected_site])) is not None:
            gain = gain * scaling.double()
        tensors[f"{half.norm}.weight"] = (gain - norm_offset).float()
    if half.output_norm:
        tensors[f"{half.output_norm}.weight"] = quantized.sublayer.output_norm.get_parameter("weight")
    # What the module holds besides its projections: the norms of queries and keys.
    tensors |= {f"{half.module}.{name}": tensor for name, tensor in quantized.sublayer.module.named_parameters()}
    for site, transform in online_transforms(quantized).items():
        tensors |= {f"{site}.transform.{name}": part for name, part in store(transform)[1].items()}
    tensors |= {
        f"{name.partition('.')[2]}.clip": clip
        for name, clip in quantized.clipping_factors().items()
        if not name.startswith("weight.")
    }
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
