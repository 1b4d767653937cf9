"""Metadata of a GGUF file: each key is heeded, carried over, without meaning, or refused."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguf.gguf_reader import ReaderTensor

PRE_TOKENIZERS_LIKE_GPT2 = ("default", "gpt-2", "smollm")
"""Ways to split text that transformers takes for GPT-2's; smollm also splits digits, which it leaves to the merges."""

CARRIED = (
    "attention.key_length", "attention.value_length", "rope.dimension_count", "rope.scaling.type",
    "rope.scaling.factor", "rope.scaling.original_context_length", "rope.freq_base_swa",
    "attention.sliding_window_pattern", "final_logit_softcapping",
)  # fmt: skip
"""Keys below the architecture that `altq.sources.gguf` carries over to config.json, since transformers does not."""

WITHOUT_MEANING = re.compile(
    r"(general|quantize|mradermacher)\..*|[^.]+\.rope\.scaling\.finetuned|[^.]+\.attention\.causal"
    r"|tokenizer\.(chat_templates?(\..*)?|ggml\.(\w+_token_ids?|add_\w+_token|token_type_count))"
)
"""Descriptions, and tokens that only a conversation needs."""


@dataclass(frozen=True)
class GgufHeader:
    """Metadata and tensors of a GGUF file. Arrays of text other than the vocabulary are given by their lengths."""

    architecture: str
    metadata: dict[str, Any]
    tensors: "dict[str, ReaderTensor]"

    def of_model(self, key: str, default: Any = None) -> Any:
        """A value below the model's own architecture."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    @property
    def pre_tokenizer_read_as_gpt2(self) -> str | None:
        """The file's pre-tokenizer if transformers replaces it by GPT-2's; None otherwise."""
        tokenizer, pre = (self.metadata.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
        return pre if tokenizer == "gpt2" and pre in PRE_TOKENIZERS_LIKE_GPT2 and pre != "gpt-2" else None

    @property
    def unheeded(self) -> list[str]:
        """Keys with a value that neither transformers nor we heed."""
        from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
        from transformers.integrations.gguf import GGUF_TOKENIZER_MAPPING

        names = GGUF_CONFIG_MAPPING[self.architecture]
        assert isinstance(names, dict), f"{self.architecture} is a family"
        model = {key for key, name in names.items() if name} | {*CARRIED}
        tokenizer = {key for keys in GGUF_TOKENIZER_MAPPING.values() for key in keys}
        heeded = {f"{self.architecture}.{key}" for key in model} | {f"tokenizer.{key}" for key in tokenizer}
        return (
            sorted(
                f"{key} ({str(value)[:40]})"
                for key, value in self.metadata.items()
                if key not in heeded and value and not WITHOUT_MEANING.fullmatch(key)
            )
            + self._unheeded_values
        )

    @property
    def _unheeded_values(self) -> list[str]:
        """Unsupported values of keys that are heeded."""
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

        unheeded = []
        tokenizer, pre = (self.metadata.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
        if pre not in (None, *PRE_TOKENIZERS_LIKE_GPT2, *GGUF_PRE_TOKENIZER_SPLITS):
            unheeded.append(f"tokenizer.ggml.pre ({pre})")
        # transformers' class of such tokenizers puts a space before a text, but for Gemma's.
        adds_space = self.metadata.get("tokenizer.ggml.add_space_prefix", True)
        if tokenizer == "llama" and self.architecture != "gemma3" and not adds_space:
            unheeded.append("tokenizer.ggml.add_space_prefix (False)")
        if self.metadata.get("general.type", "model") != "model":
            unheeded.append(f"general.type ({self.metadata['general.type']})")
        return unheeded


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the header of a GGUF file; ValueError for one that is unreadable or claims more than the file holds.

    Lengths in it are believed only as far as the file goes, so that it is read in no time and no memory.
    """
    from gguf import GGUFReader
    from transformers.integrations.gguf import read_gguf_metadata

    try:
        # This reader checks every length against the file, which the one that knows of tensors does not.
        metadata, _ = read_gguf_metadata(str(path), ("tokenizer.ggml.tokens",))
        tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    # A cut or foreign file fails wherever the readers happen to trip over it: struct.error, OverflowError and others.
    except Exception as error:
        raise ValueError(f"its header is not readable: {type(error).__name__}: {error}") from error
    architecture, size = metadata["general.architecture"], path.stat().st_size
    if not isinstance(architecture, str):
        raise ValueError(f"its general.architecture is {architecture!r}, not a name")
    for name, tensor in tensors.items():
        if tensor.data_offset + tensor.n_bytes > size:
            raise ValueError(f"it ends before its tensor {name} does")
    return GgufHeader(architecture, metadata, tensors)
