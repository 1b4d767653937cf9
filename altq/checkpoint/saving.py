"""Saving a checkpoint that is loaded: `save_pretrained` of its model, and with it `push_to_hub`.

transformers' own way would write a model without projections, under its own names.
"""

import shutil
from pathlib import Path

from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor
from transformers import PreTrainedModel

from altq.checkpoint.format import (
    CARD_FILE,
    CHECKPOINT_FILE,
    CheckpointWeights,
    begin_checkpoint,
    published,
    write_index,
    write_part,
)
from altq.models.config_file import CONFIG_FILE
from altq.runtime.files import read_json, write_json


def save_checkpoint(
    model: PreTrainedModel,
    weights: CheckpointWeights,
    save_directory: str | Path,
    *,
    max_shard_size: int | str = "5GB",
) -> None:
    """Write a checkpoint to another folder, in files of at most `max_shard_size`.

    weights: those that the model was loaded from, of which blocks are written as they are. What lies outside the blocks
    is written as it is in the model, in the type of the file that it came from where it still is what it was. Its labels
    and its card go with it. ValueError where the folder is the one that is read from.
    """
    folder = Path(save_directory)
    if folder.resolve() == weights.folder.resolve():
        raise ValueError(f"{folder} is the checkpoint that the model was loaded from; save it to another folder")
    folder.mkdir(parents=True, exist_ok=True)
    begin_checkpoint(folder)
    inside = model.state_dict()
    prefix = f"{weights.family.blocks}."
    tensors = {
        name: weights.tensor(name) if name.startswith(prefix) else _outer(weights.tensor(name), inside[name])
        for name in weights.names
    }
    split = split_torch_state_dict_into_shards(
        tensors, filename_pattern="altq{suffix}.safetensors", max_shard_size=max_shard_size
    )
    for file, names in split.filename_to_tensors.items():
        write_part(folder / file, {name: tensors[name] for name in names})
    write_index(folder, split.filename_to_tensors)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    for name in (CHECKPOINT_FILE, CARD_FILE):
        if (weights.folder / name).is_file():
            shutil.copyfile(weights.folder / name, folder / name)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    # Whoever made the model, its blocks are those of the weights.
    quantization = {"quantization_config": weights.config.quantization_config}
    write_json(folder / CONFIG_FILE, published(read_json(folder / CONFIG_FILE)) | quantization)


def _outer(stored: Tensor, used: Tensor) -> Tensor:
    is_unchanged = stored.shape == used.shape and bool((stored.to(used.dtype) == used).all())
    return stored if is_unchanged else used.detach()
