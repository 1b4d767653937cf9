"""Verification of a model folder at the fetch: complete, readable, and as the configuration describes it."""

import logging

from altq.models.config_file import CONFIG_FILE, ConfigFile, read_config_file
from altq.models.family import family_of
from altq.models.model_folder import ModelFolder

log = logging.getLogger(__name__)


def check_config(folder: ModelFolder, num_blocks: int) -> ConfigFile:
    """The config.json of a model folder; ValueError unless its family is known and it has `num_blocks` blocks."""
    name = folder.display_name(CONFIG_FILE)
    config = read_config_file(folder)
    family_of(config.model_type)
    if config.num_hidden_layers != num_blocks:
        raise ValueError(
            f"the model has {config.num_hidden_layers} blocks ({name}), but the configuration says "
            f"num_blocks: {num_blocks}; correct it"
        )
    if config.quantization_config:
        raise ValueError(f"{name} has quantization_config: the model is quantized already; give the original")
    return config


def check_tensors(folder: ModelFolder) -> int:
    """The number of weights; ValueError unless the tensors are those of the model, whole, finite and of their shapes.

    Names and shapes come from transformers' own model of config.json, built on the meta device. One tensor is read at
    a time. The error names the file and the tensor.
    """
    from altq.models.configuration import empty_model
    from altq.models.weights import ModelWeights

    weights = ModelWeights(folder)
    weights.require_tensors_of(empty_model(folder, with_buffers=False))
    if weights.skipped:
        log.info("%s: %d tensors are left out, such as %s", folder.name, len(weights.skipped), weights.skipped[0])
    num_weights = 0
    for name in weights.names:
        tensor = weights.tensor(name)
        if not tensor.isfinite().all():
            remedy = f"{folder.remedy}, or give another model"
            raise ValueError(f"{weights.place(name)} holds NaN or infinity; {remedy}")
        num_weights += tensor.numel()
    return num_weights


def check_tokenizer(folder: ModelFolder) -> None:
    """ValueError unless a folder holds a fast tokenizer that transformers loads without network."""
    from altq.models.tokenizer import load_tokenizer

    load_tokenizer(folder)
