"""Conversion of GGUF to safetensors: transformers de-quantizes the weights and rebuilds the tokenizer.

Metadata that transformers ignores are carried over to config.json (scaled rotary embedding, biases, the width of a
head) or refused by name.
"""

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from altq.models.config_file import ConfigFile
from altq.models.model_folder import ModelFolder
from altq.runtime import files
from altq.runtime.documents import described
from altq.sources.gguf_header import GgufHeader, read_gguf_header

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)

ROPE_FACTORS = "rope_freqs.weight"
"""Tensor of divisors of the rotary embedding's frequencies, which LLaMA 3.1 has."""
ATTENTION_BIAS = r"blk\.\d+\.attn_(q|k|v|output)\.bias"
FFN_BIAS = r"blk\.\d+\.ffn_(gate|up|down)\.bias"
REQUIRED = (
    "block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "attention.layer_norm_rms_epsilon",
)  # fmt: skip
"""Keys that a model must have; transformers takes its own defaults for those that are missing."""
FAMILIES = {"llama": "llama", "mistral": "mistral", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3": "gemma3_text"}
"""The family of each architecture whose conversion is known to be exact."""
DEEPEST_GEMMA3 = 62
"""Blocks of Gemma 3 27B, whose attention alone is scaled by the width of the stream over the number of heads."""


def convert(gguf: str | Path, source: ModelFolder, num_blocks: int) -> None:
    """Write a GGUF model to the folder `source` as float32 safetensors with config.json and a fast tokenizer.

    The result loads with AutoModelForCausalLM and AutoTokenizer, without network. From here on it is the full-precision
    model. Raises ValueError for a file that is damaged, that has another number of blocks, or that says something which
    neither transformers nor we heed; OSError without disk space.
    """
    from altq.runtime.tensor_files import write_tensors

    gguf = Path(gguf)
    try:
        header = read_gguf_header(gguf)
        _check_header(header, num_blocks)
        if header.pre_tokenizer_read_as_gpt2:
            log.warning(
                "%s: its way to split text (tokenizer.ggml.pre) is %s, which transformers takes for GPT-2's; what it "
                "splits otherwise, such as digits, is left to the merges",
                source.name,
                header.pre_tokenizer_read_as_gpt2,
            )
        config = _config(gguf, header)
        _check_tensors(header, config)
        model, tokenizer = _load(gguf, config)
        _check_finite(model)
    except ValueError as error:
        raise ValueError(f"{source.name} cannot be converted: {error}; give another file of the model") from error
    files.require_space(source.path.parent, sum(4 * parameter.numel() for parameter in model.parameters()))
    model.config.save_pretrained(source.path)
    # model.save_pretrained refuses a model that came from GGUF, though its weights are ordinary float32 by now.
    tied = set(model.all_tied_weights_keys)
    weights = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    write_tensors(source.path / "model.safetensors", weights, {"format": "pt"})
    tokenizer.save_pretrained(source.path)


def _check_header(header: GgufHeader, num_blocks: int) -> None:
    if header.architecture not in FAMILIES:
        raise ValueError(
            f"its architecture {header.architecture!r} is not known in GGUF (known: {', '.join(FAMILIES)}); a folder "
            "of safetensors may be"
        )
    missing = [key for key in REQUIRED if header.of_model(key) is None]
    if missing:
        raise ValueError(f"its metadata lack {', '.join(missing)}")
    block_count = header.of_model("block_count")
    if block_count != num_blocks:
        raise ValueError(
            f"it has {block_count} blocks (block_count), but the configuration says num_blocks: {num_blocks}"
        )
    if header.unheeded:
        raise ValueError(f"it says what transformers does not heed: {', '.join(header.unheeded)}")


def _config(gguf: Path, header: GgufHeader) -> "PretrainedConfig":
    """The configuration that transformers makes of the file, completed by the keys that it ignores."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            gguf.parent, gguf_file=gguf.name, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise ValueError(f"transformers makes no configuration of it: {type(error).__name__}: {error}") from error
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    _carry_sizes(config, header)
    _carry_rope(config, header)
    _carry_biases(config, header)
    for key, value in config.to_dict().items():
        if isinstance(value, float):
            # GGUF stores 1e-05 as a float32, which reads back as 9.999999747378752e-06.
            setattr(config, key, float(str(np.float32(value))))
    content = {key: value for key, value in config.to_dict().items() if value is not None}
    described(content, ConfigFile, name="its metadata", remedy="they must be those of a decoder-only model")
    if not 0 < config.rms_norm_eps < 1e-2:
        raise ValueError(f"it gives the norms an epsilon of {config.rms_norm_eps}, which cannot be right")
    return config


def _carry_sizes(config: "PretrainedConfig", header: GgufHeader) -> None:
    """Carry over the width of a head, and the options that follow from it."""
    derived = config.hidden_size // config.num_attention_heads
    head_dim = header.of_model("attention.key_length") or header.of_model("rope.dimension_count") or derived
    for key in ("attention.value_length", "rope.dimension_count"):
        if header.of_model(key, head_dim) != head_dim:
            raise ValueError(f"its {key} is {header.of_model(key)}, but a head of its keys has {head_dim} channels")
    if head_dim != getattr(config, "head_dim", derived):
        config.head_dim = head_dim
    if header.architecture == "gemma3":
        config.query_pre_attn_scalar = derived if config.num_hidden_layers == DEEPEST_GEMMA3 else head_dim
        config.final_logit_softcapping = header.of_model("final_logit_softcapping") or None
    if header.of_model("attention.sliding_window_pattern", 6) != 6:
        raise ValueError("its attention.sliding_window_pattern is not 6, which transformers takes it for")


def _carry_rope(config: "PretrainedConfig", header: GgufHeader) -> None:
    """Carry over scaled rotary embedding, by a factor for each frequency or by a named method."""
    parameters = config.rope_parameters
    if header.architecture == "gemma3":
        parameters["sliding_attention"]["rope_theta"] = header.of_model("rope.freq_base_swa", 10_000.0)
        parameters = parameters["full_attention"]
    factor = header.of_model("rope.scaling.factor") or 1.0
    # A factor without a type is of the oldest way, as for llama.cpp.
    kind = header.of_model("rope.scaling.type", "none" if factor == 1 else "linear")
    if ROPE_FACTORS in header.tensors:
        factors = header.tensors[ROPE_FACTORS].data.astype(float).tolist()
        if not all(0 < factor < float("inf") for factor in factors):
            raise ValueError(f"its {ROPE_FACTORS} are not all positive numbers")
        if kind != "none":
            raise ValueError(f"it has both {ROPE_FACTORS} and rope.scaling.type {kind}; one can be carried over")
        # For transformers, a factor for each frequency at every length.
        parameters |= {
            "rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0,
            "factor": 1.0, "original_max_position_embeddings": config.max_position_embeddings,
        }  # fmt: skip
    elif kind in ("linear", "yarn"):
        parameters |= {"rope_type": kind, "factor": factor}
        original = header.of_model("rope.scaling.original_context_length")
        if kind == "yarn":
            parameters["original_max_position_embeddings"] = original or config.max_position_embeddings
    elif kind != "none":
        raise ValueError(f"its rope.scaling.type {kind} is not known (known: none, linear, yarn)")


def _carry_biases(config: "PretrainedConfig", header: GgufHeader) -> None:
    """Set the options of a configuration class for biases of projections."""
    for option, pattern in (("attention_bias", ATTENTION_BIAS), ("mlp_bias", FFN_BIAS)):
        if hasattr(config, option):
            setattr(config, option, any(re.fullmatch(pattern, name) for name in header.tensors))


def _check_tensors(header: GgufHeader, config: "PretrainedConfig") -> None:
    """ValueError unless the file's tensors are those of the model, each of its shape; biases may be missing."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import TensorProcessor, get_gguf_hf_weights_map

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        name_of = get_gguf_hf_weights_map(model, TensorProcessor())
    except Exception as error:  # sizes that do not go together, found wherever the code trips over them
        raise ValueError(f"transformers makes no model of it: {type(error).__name__}: {error}") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    lacking = shapes.keys() - model.all_tied_weights_keys.keys()
    for gguf_name, tensor in header.tensors.items():
        if gguf_name == ROPE_FACTORS:
            continue
        if gguf_name not in name_of:
            raise ValueError(f"a {config.model_type} model has no place for its tensor {gguf_name}")
        name, shape = name_of[gguf_name], tuple(reversed(tensor.shape.tolist()))
        if shape != shapes[name]:
            expected = list(shapes[name])
            raise ValueError(f"its tensor {gguf_name} has shape {list(shape)}, but its metadata make it {expected}")
        lacking -= {name}
    lacking = sorted(name for name in lacking if not name.endswith(".bias"))
    if lacking:
        raise ValueError(f"it lacks {len(lacking)} tensors of the model, among them {lacking[0]}")


def _check_finite(model: "PreTrainedModel") -> None:
    wrong = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    if wrong:
        raise ValueError(f"{len(wrong)} of its tensors hold NaN or infinity, the first of them {wrong[0]}")


def _load(gguf: Path, config: "PretrainedConfig") -> tuple["PreTrainedModel", Any]:
    """The model and its tokenizer; a bias that the file lacks is zero."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            gguf.parent, **source, config=config, dtype="float32", output_loading_info=True
        )
        model, report = loaded
    # transformers has no common exception for a malformed tensor or vocabulary.
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    for name in report["missing_keys"]:
        if not name.endswith(".bias"):
            raise ValueError(f"it lacks {name}")
        model.get_parameter(name).data.zero_()
    if report["unexpected_keys"] or report["mismatched_keys"]:
        raise ValueError(f"{min(report['unexpected_keys'] or report['mismatched_keys'])} is not of the model")
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    return model, tokenizer
