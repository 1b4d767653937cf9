"""The shape of a decoder-only model: the sizes that its cost follows from.

Imports nothing heavy, since the workflow reads it.
"""

from dataclasses import dataclass

from pydantic import Field

from altq.experiment.bounds import Size
from altq.experiment.section import Section


class Shape(Section):
    """Sizes as a model's config.json has them; for a model that is not fetched yet."""

    hidden_size: Size = Field(description="width of the residual stream")
    intermediate_size: Size = Field(description="width of the feed-forward half")
    num_heads: Size = Field(description="query heads")
    num_kv_heads: Size = Field(description="key and value heads")
    head_dim: Size | None = Field(None, description="width of a head; hidden_size / num_heads when absent")
    vocab_size: Size = Field(description="entries of the vocabulary")
    max_position_embeddings: Size | None = Field(
        None, description="tokens of the longest window that the model was made for; unknown when absent"
    )
    tied: bool = Field(False, description="whether the head is the embedding")


@dataclass(frozen=True)
class Sizes:
    """A shape with its number of blocks, and the sizes that follow from both; `origin` is the source of the shape."""

    shape: Shape
    num_blocks: int
    origin: str

    @property
    def hidden(self) -> int:
        return self.shape.hidden_size

    @property
    def intermediate(self) -> int:
        return self.shape.intermediate_size

    @property
    def head_dim(self) -> int:
        return self.shape.head_dim or self.hidden // self.shape.num_heads

    @property
    def query(self) -> int:
        """Width of all query heads."""
        return self.shape.num_heads * self.head_dim

    @property
    def key_value(self) -> int:
        """Width of all key heads and all value heads."""
        return 2 * self.shape.num_kv_heads * self.head_dim

    @property
    def attention_weights(self) -> int:
        return self.hidden * (self.query + self.key_value) + self.query * self.hidden

    @property
    def ffn_weights(self) -> int:
        return 3 * self.hidden * self.intermediate

    @property
    def block_weights(self) -> int:
        return self.attention_weights + self.ffn_weights

    @property
    def embedding_weights(self) -> int:
        return self.shape.vocab_size * self.hidden

    @property
    def outer_weights(self) -> int:
        """Embedding and head, once where they are tied."""
        return self.embedding_weights * (1 if self.shape.tied else 2)

    @property
    def num_weights(self) -> int:
        """All weights but the norms'."""
        return self.num_blocks * self.block_weights + self.outer_weights

    @property
    def site_widths(self) -> tuple[int, ...]:
        """Widths of the inputs of linear layers in a block: qkv, o, gate_up, down."""
        return self.hidden, self.query, self.hidden, self.intermediate

    @property
    def token_elements(self) -> int:
        """Elements of the activations that one token has in a block, the scores of attention left out."""
        return 4 * self.hidden + 2 * self.query + self.key_value + 3 * self.intermediate
