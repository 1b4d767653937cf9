"""The config.json of a model folder as a typed description. Imports nothing heavy, since the workflow reads it."""

import json
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from altq.experiment.shape import Shape
from altq.models.model_folder import ModelFolder
from altq.runtime.documents import described
from altq.runtime.files import read_json

CONFIG_FILE = "config.json"

Size = Annotated[int, Field(ge=1, lt=2**31)]
Positive = Annotated[int | float, Field(gt=0)]


class ConfigFile(BaseModel):
    """The sizes of a decoder-only model and the numbers that scale its forward pass; other keys are kept.

    Whether these are known is asked by `altq.models.configuration`, which has transformers at hand.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    model_type: str
    num_hidden_layers: Size
    hidden_size: Size
    intermediate_size: Size
    num_attention_heads: Size
    vocab_size: Size
    num_key_value_heads: Size | None = None
    head_dim: Annotated[int, Field(ge=1, le=2**16)] | None = None
    max_position_embeddings: Size | None = None
    sliding_window: Size | None = None
    rms_norm_eps: Positive | None = None
    rope_theta: Positive | None = None
    rope_local_base_freq: Positive | None = None
    query_pre_attn_scalar: Positive | None = None
    attn_logit_softcapping: Positive | None = None
    final_logit_softcapping: Positive | None = None
    embedding_multiplier: Positive | None = None
    attention_multiplier: Positive | None = None
    residual_multiplier: Positive | None = None
    logits_scaling: Positive | None = None
    tie_word_embeddings: bool = False
    quantization_config: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        kv_heads = self.num_key_value_heads or self.num_attention_heads
        if self.num_attention_heads % kv_heads:
            raise ValueError(f"num_key_value_heads {kv_heads} does not divide num_attention_heads")
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError("num_attention_heads does not divide hidden_size, and no head_dim is given")
        return self

    @property
    def content(self) -> dict[str, Any]:
        """The keys and values that the file gives."""
        return self.model_dump(exclude_unset=True)

    @property
    def shape(self) -> Shape:
        """The sizes that the model's cost follows from."""
        return Shape(
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_heads=self.num_attention_heads,
            num_kv_heads=self.num_key_value_heads or self.num_attention_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
            max_position_embeddings=self.max_position_embeddings,
            tied=self.tie_word_embeddings,
        )


def read_config_file(folder: ModelFolder) -> ConfigFile:
    """The config.json of a folder; ValueError names the key and the remedy."""
    name, remedy = folder.display_name(CONFIG_FILE), folder.remedy_for(CONFIG_FILE)
    path = folder.path / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{name} is missing: {folder.name} is not a model folder; give one as transformers saves it")
    try:
        content = read_json(path, name)
        json.dumps(content, allow_nan=False)
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{name} cannot be read ({error}); {remedy}") from None
    return described(content, ConfigFile, name=name, remedy=f"it must be the config of a decoder-only model: {remedy}")
