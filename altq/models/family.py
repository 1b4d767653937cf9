"""Model families as data: names of the norms and projections of a block, offset of the norm, multipliers.

A family is never a branch in the code. transformers' own block is the forward pass; a description only names its
parts (docs/architecture.md).
"""

from dataclasses import dataclass, replace

from altq.experiment.windows import Bos


@dataclass(frozen=True)
class Half:
    """Attention or feed-forward half of a block; its names are relative to the block.

    norm: before the module; None where it reads the residual stream as it is.
    output_norm: behind it; None where its output is added as it is.
    input_sites maps each site at the input of linear layers to the projections that share that input.
    output_multiplier: attribute of the block by which the half's output is multiplied before it is added to the stream.
    fused: linear layer whose rows are those of all readers one behind the other; each reader's name is below it.
    """

    module: str
    norm: str | None
    output_norm: str | None
    input_sites: dict[str, tuple[str, ...]]
    output_multiplier: str | None = None
    fused: str | None = None

    @property
    def projections(self) -> tuple[str, ...]:
        return tuple(name for names in self.input_sites.values() for name in names)

    @property
    def selected_site(self) -> str:
        """The site whose transformation kind is selected per layer; it reads the residual stream, through the norm."""
        return next(iter(self.input_sites))

    @property
    def readers(self) -> tuple[str, ...]:
        """The projections that read the residual stream, through the norm."""
        return self.input_sites[self.selected_site]

    @property
    def writers(self) -> tuple[str, ...]:
        """The projections that write to the residual stream."""
        return list(self.input_sites.values())[-1]


@dataclass(frozen=True)
class Family:
    """A family of decoder-only models. The gain of a norm is `norm_offset + weight`.

    embedding_multiplier: key of config.json by which embeddings are multiplied before the first block.
    legacy_keys: of a config.json, which transformers reads though its configuration class has no such field.
    unread_keys: of published config.json files, which are no field of that class and which no implementation reads.
    ignored_options: fields of that class which transformers' forward pass does not heed.
    rope_keys: of rope_parameters, which the family reads whatever the type.
    bos: where published evaluations of the family have the token that begins a text.
    """

    attention: Half
    ffn: Half
    blocks: str = "model.layers"
    embedding: str = "model.embed_tokens"
    last_norm: str = "model.norm"
    head: str = "lm_head"
    norm_offset: float = 0.0
    embedding_multiplier: str | None = None
    legacy_keys: tuple[str, ...] = ()
    unread_keys: tuple[str, ...] = ()
    ignored_options: tuple[str, ...] = ()
    rope_keys: tuple[str, ...] = ()
    bos: Bos = "never"

    def half(self, name: str) -> Half:
        """The half of that name, `attention` or `ffn`."""
        return {"attention": self.attention, "ffn": self.ffn}[name]


def _attention(output_norm: str | None = None, *, fused: str | None = None) -> Half:
    readers = tuple(f"{fused or 'self_attn'}.{name}_proj" for name in "qkv")
    sites = {"qkv": readers, "o": ("self_attn.o_proj",)}
    return Half("self_attn", norm="input_layernorm", output_norm=output_norm, input_sites=sites, fused=fused)


def _ffn(norm: str = "post_attention_layernorm", output_norm: str | None = None, *, fused: str | None = None) -> Half:
    readers = tuple(f"{fused or 'mlp'}.{name}_proj" for name in ("gate", "up"))
    sites = {"gate_up": readers, "down": ("mlp.down_proj",)}
    return Half("mlp", norm=norm, output_norm=output_norm, input_sites=sites, fused=fused)


_LLAMA_LIKE = Family(_attention(), _ffn())
_GEMMA = Family(
    _attention(output_norm="post_attention_layernorm"),
    _ffn(norm="pre_feedforward_layernorm", output_norm="post_feedforward_layernorm"),
    norm_offset=1.0,
    bos="window",
)

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE,
    "qwen2": replace(_LLAMA_LIKE, legacy_keys=("head_dim",)),
    "qwen3": _LLAMA_LIKE,
    "smollm3": replace(_LLAMA_LIKE, legacy_keys=("head_dim",), unread_keys=("max_window_layers", "pretraining_tp")),
    "granite": Family(
        replace(_attention(), output_multiplier="residual_multiplier"),
        replace(_ffn(), output_multiplier="residual_multiplier"),
        embedding_multiplier="embedding_multiplier",
        legacy_keys=("head_dim",),
    ),
    "phi3": Family(
        _attention(fused="self_attn.qkv_proj"),
        _ffn(fused="mlp.gate_up_proj"),
        legacy_keys=("head_dim", "partial_rotary_factor"),
        rope_keys=("partial_rotary_factor",),
    ),
    "olmo2": Family(
        replace(_attention(output_norm="post_attention_layernorm"), norm=None),
        replace(_ffn(output_norm="post_feedforward_layernorm"), norm=None),
        legacy_keys=("head_dim",),
    ),
    "gemma2": replace(
        _GEMMA,
        unread_keys=("hidden_act", "sliding_window_size"),
        ignored_options=("use_bidirectional_attention",),
    ),
    "gemma3_text": replace(
        _GEMMA,
        legacy_keys=("rope_local_base_freq", "sliding_window_pattern"),
        ignored_options=("attn_logit_softcapping",),
    ),
}


def family_of(model_type: str) -> Family:
    """The description of a `model_type` (as in config.json); ValueError for an unknown one.

    The message proposes no other name: a model under the description of another architecture would be another model.
    """
    if model_type not in FAMILIES:
        raise ValueError(
            f"model family {model_type!r} is not known (known: {', '.join(FAMILIES)}); "
            "add its description to altq/models/family.py"
        )
    return FAMILIES[model_type]
