"""transformers' configuration of a model folder, of which every key is heeded, known to mean nothing here, or refused.

No code of the folder is ever run: the class of a configuration and of a model is transformers' own for its model_type.
"""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from altq.models.config_file import CONFIG_FILE, ConfigFile, read_config_file
from altq.models.family import family_of
from altq.models.fused_projection import split_fused_projections
from altq.models.joints import ATTENTION
from altq.models.model_folder import ModelFolder

LEGACY_KEYS = (
    "model_type", "rope_scaling", "rope_theta", "original_max_position_embeddings", "tokenizer_class", "torch_dtype",
)  # fmt: skip
"""Keys that transformers reads although no configuration class has such a field."""

WITHOUT_MEANING = frozenset(GenerationConfig._get_default_generation_params()) | {
    "attn_implementation", "auto_map", "cache_implementation", "finetuning_task", "is_llama_config", "license",
    "max_sequence_length", "model_max_length", "name_or_path", "num_labels", "output_attentions", "prefix",
    "task_specific_params", "transformers.js_config", "unk_token_id", "unsloth_fixed", "unsloth_version",
    "use_return_dict",
}  # fmt: skip
"""Keys of other people's files that have no part in predicting the next token; nor has one that starts with _."""

ROPE_KEYS = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": (
        "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale",
        "mscale_all_dim", "truncate",
    ),
    "longrope": ("factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}  # fmt: skip
"""Parameters of rotary embedding that transformers reads besides rope_theta, by rope_type."""

ROPE_KEYS_WITHOUT_MEANING = ("rope_type", "type", "rope_theta", "finetuned")


def load_config(folder: ModelFolder) -> PretrainedConfig:
    """The configuration of a model folder; ValueError for a key whose effect nothing here or in transformers has."""
    file = read_config_file(folder)
    name, remedy = folder.display_name(CONFIG_FILE), folder.remedy_for(CONFIG_FILE)
    _check_keys(file, name)
    content = {key: value for key, value in file.content.items() if _is_read(file.model_type, key)}
    # The form of the output is fixed here, whatever the file says.
    content |= {"return_dict": True, "output_hidden_states": False}
    try:
        config = CONFIG_MAPPING[file.model_type].from_dict(copy.deepcopy(content))
    # transformers has no exception of its own for an invalid configuration.
    except Exception as error:
        raise ValueError(f"{name} is refused by transformers ({_one_line(error)}); {remedy}") from error
    _check_rope(config, name)
    return config


def empty_model(folder: ModelFolder, dtype: torch.dtype = torch.float32, *, with_buffers: bool) -> PreTrainedModel:
    """transformers' model of a folder without weights: on the meta device, except for its buffers `with_buffers`.

    Fused projections are split. ValueError for a configuration that makes no model.
    """
    config = load_config(folder)
    # Its buffers need memory for a moment for each tensor in turn.
    without_weights = init_empty_weights(include_buffers=False) if with_buffers else torch.device("meta")
    try:
        with without_weights:
            model = AutoModelForCausalLM.from_config(
                config, attn_implementation=ATTENTION, dtype=dtype, trust_remote_code=False
            )
    # An activation that is not known, sizes that do not go together, and so on.
    except Exception as error:
        name, remedy = folder.display_name(CONFIG_FILE), folder.remedy_for(CONFIG_FILE)
        raise ValueError(f"{name} makes no model of transformers ({_one_line(error)}); {remedy}") from error
    split_fused_projections(model, family_of(config.model_type), read_config_file(folder))
    return model.eval().requires_grad_(False)


def rope_parameters(config: PretrainedConfig) -> Iterator[dict[str, Any]]:
    """The parameters of rotary embedding, one for each type of layer that has its own."""
    parameters = config.rope_parameters
    nested = config.nested_rope_parameter_keys(parameters)
    yield from (parameters[key] for key in nested) if nested else (parameters,)


def _is_read(model_type: str, key: str) -> bool:
    fields = {field.name for field in dataclasses.fields(CONFIG_MAPPING[model_type])}
    return key in fields or key in LEGACY_KEYS or key in family_of(model_type).legacy_keys


def _check_keys(file: ConfigFile, name: str) -> None:
    family = family_of(file.model_type)
    meaningless = WITHOUT_MEANING.union(family.unread_keys, ["quantization_config"])
    unheeded = sorted(
        key
        for key, value in file.content.items()
        if value not in (None, False, "", [], {})
        and (key in family.ignored_options or not _is_read(file.model_type, key))
        and not (key in meaningless or key.startswith("_"))
    )
    if unheeded:
        raise ValueError(
            f"{name} has {', '.join(unheeded)}, which no {file.model_type} model of transformers heeds, so that its "
            "numbers would not be those that are meant; where the model does without, remove the key (of a model of "
            "the hub, in a downloaded folder that is given as `path`)"
        )


def _check_rope(config: PretrainedConfig, name: str) -> None:
    nested = config.nested_rope_parameter_keys(config.rope_parameters)
    # Parameters of a type of layer that the model does not have are not read.
    flat = [key for key, value in config.rope_parameters.items() if not isinstance(value, dict | None)]
    beside = sorted(flat) if nested else []
    if beside:
        raise ValueError(f"{name}: rope_parameters has {', '.join(beside)} beside {', '.join(nested)}; remove one form")
    for parameters in rope_parameters(config):
        if not isinstance(parameters, dict):
            raise ValueError(f"{name}: rope_parameters is {parameters!r} for a type of layer, no object; correct it")
        kind = parameters.get("rope_type")
        if not isinstance(kind, str) or kind not in ROPE_KEYS:
            raise ValueError(f"{name}: rope_type {kind!r} is not known (known: {', '.join(ROPE_KEYS)}); correct it")
        heeded = ROPE_KEYS[kind] + ROPE_KEYS_WITHOUT_MEANING + family_of(config.model_type).rope_keys
        unheeded = sorted(key for key in parameters if key not in heeded and parameters[key] not in (None, False, 1))
        if unheeded:
            raise ValueError(
                f"{name}: rotary embedding of type {kind} has {', '.join(unheeded)}, which transformers does not heed; "
                "remove what the model does without"
            )


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
