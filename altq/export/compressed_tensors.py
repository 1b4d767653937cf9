"""compressed-tensors' `pack-quantized`: integer weights for transformers, with that package, and for vLLM.

A code lies in [-2^(bits-1), 2^(bits-1) - 1], a weight is code * scale, with a scale for each row or each group of
channels. Scales may be negative, as altq's are. The format has zero points, too, but transformers 5.23 with
compressed-tensors 0.20 makes no place for packed ones, and refuses the folder.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor

from altq.checkpoint.format import CHECKPOINT_FILE, CHECKPOINT_INDEX_FILE
from altq.export.folded_checkpoint import FoldedCheckpoint
from altq.models.config_file import CONFIG_FILE
from altq.models.model_folder import INDEX_FILE
from altq.quantizers.weight_codes import WeightCodes
from altq.runtime.files import read_json, write_json
from altq.runtime.tensor_files import write_tensors

OWN_FILES = (CONFIG_FILE, CHECKPOINT_FILE, CHECKPOINT_INDEX_FILE)


def export_compressed_tensors(checkpoint: FoldedCheckpoint, folder: Path, max_shard_size: int | str = "5GB") -> None:
    """Write a checkpoint to a new folder, config.json last.

    ValueError for zero points, for a group that does not divide the width of a projection, and where the package is not
    installed.
    """
    if checkpoint.has_zero_points:
        raise ValueError(
            f"{checkpoint.weights.folder} has weights with zero points, which transformers does not load from "
            "compressed-tensors; calibrate with zero_point: false"
        )
    if find_spec("compressed_tensors") is None:
        raise ValueError("the package compressed-tensors is missing; install altq[export]")
    tensors = dict(checkpoint.other_tensors())
    for name, weight in checkpoint.projections():
        tensors |= {f"{name}.{part}": tensor for part, tensor in packed_weight(name, weight).items()}
    folder.mkdir(parents=True)
    split = split_torch_state_dict_into_shards(tensors, max_shard_size=max_shard_size)
    for file, names in split.filename_to_tensors.items():
        write_tensors(folder / file, {name: tensors[name].contiguous() for name in names}, {"format": "pt"})
    if split.is_sharded:
        write_json(folder / INDEX_FILE, {"metadata": split.metadata, "weight_map": split.tensor_to_filename})
    source = checkpoint.weights.folder
    for path in source.iterdir():
        if path.suffix in (".json", ".model", ".txt", ".jinja") and path.name not in OWN_FILES:
            shutil.copyfile(path, folder / path.name)
    content = read_json(source / CONFIG_FILE) | {"quantization_config": description(checkpoint)}
    write_json(folder / CONFIG_FILE, content)


def packed_weight(name: str, weight: WeightCodes) -> dict[str, Tensor]:
    """The tensors of a projection as compressed-tensors names them; ValueError for a short last group."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    grid, (d_out, d_in) = weight.grid, weight.codes.shape
    if grid.group is not None and d_in % grid.group:
        raise ValueError(
            f"{name} has {d_in} input channels, which groups of {grid.group} do not divide: compressed-tensors knows no "
            "short group; assemble the checkpoint with a group that divides them"
        )
    return {
        "weight_packed": pack_to_int32(weight.codes, grid.bits),
        "weight_scale": grid.scale if grid.group is None else grid.scale.bfloat16(),
        "weight_shape": torch.tensor([d_out, d_in]),
    }


def description(checkpoint: FoldedCheckpoint) -> dict[str, Any]:
    """`quantization_config` of config.json."""
    setting = checkpoint.setting
    weights = {
        "num_bits": setting.weights,
        "type": "int",
        "symmetric": True,
        "strategy": "channel" if setting.group is None else "group",
        "group_size": setting.group,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": [checkpoint.weights.family.head],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
