"""GGUF files of tiny models, written as llama.cpp's converter writes them."""

from pathlib import Path

import torch
from gguf import GGUFWriter
from models_for_tests import save_tiny_model, tiny_config, transformers_model
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.modeling_gguf_pytorch_utils import TensorProcessor, get_gguf_hf_weights_map

BYTES = sorted(bytes_to_unicode().values())
WORDS = [*BYTES, "ab", "<end>"]
ARCHITECTURES = {
    "llama_gqa": "llama", "llama_biases": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3_text": "gemma3"
}  # fmt: skip


def interleaved(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of q or k in the order of llama.cpp's rotary embedding, where the two halves of a head alternate."""
    return tensor.reshape(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def write_gguf(path: Path, name: str, *, keys=None, lacking=(), extra=None, **changes) -> Path:
    """Write one of the tiny models to `path`, a GGUF file; returns the folder of the same model for transformers.

    keys: metadata below the architecture, or with their whole name, None for one to leave out. lacking: GGUF's names of
    tensors to leave out. extra: tensors to add.
    """
    folder = save_tiny_model(name, path.with_suffix(""), vocab_size=len(WORDS), **changes)
    config, model, architecture = tiny_config(name, **changes), transformers_model(folder), ARCHITECTURES[name]
    writer = GGUFWriter(path, architecture)
    derived = config.hidden_size // config.num_attention_heads
    values = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": getattr(config, "head_dim", None) or derived,
        "attention.value_length": getattr(config, "head_dim", None) or derived,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": 1e6 if architecture == "gemma3" else 1e4,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
    }
    if architecture == "gemma3":
        values["attention.sliding_window"] = config.sliding_window
    for key, value in (values | (keys or {})).items():
        if value is None:
            continue
        full = key if key.startswith(("tokenizer.", "general.", "split.")) else f"{architecture}.{key}"
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add.get(type(value), writer.add_array)(full, value)
    writer.add_token_list(WORDS)
    writer.add_token_types([1] * (len(WORDS) - 1) + [3])
    writer.add_token_merges(["a b"])
    name_of = {hf: gguf for gguf, hf in get_gguf_hf_weights_map(model, TensorProcessor()).items()}
    tensors = {name_of[hf]: tensor.detach() for hf, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del tensors["output.weight"]
    for tensor_name, tensor in (tensors | (extra or {})).items():
        if architecture == "llama" and ".attn_q." in tensor_name:
            tensor = interleaved(tensor, config.num_attention_heads)
        if architecture == "llama" and ".attn_k." in tensor_name:
            tensor = interleaved(tensor, config.num_key_value_heads)
        if architecture == "gemma3" and "norm.weight" in tensor_name:
            tensor = tensor + 1
        if tensor_name not in lacking:
            writer.add_tensor(tensor_name, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder
