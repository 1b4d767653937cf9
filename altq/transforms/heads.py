"""Transformations laid out by attention heads: one matrix within each head, or one that mixes the heads."""

import torch
from torch import Tensor, nn

from altq.transforms.transform import Transform


def _by_head(x: Tensor, factors: Tensor) -> Tensor:
    """Multiply each head's slice of the last axis by its factor: [..., heads * d], [heads, d, d]."""
    heads, head_dim, _ = factors.shape
    return (x.unflatten(-1, (heads, 1, head_dim)) @ factors).flatten(-3)


class HeadAffine(Transform):
    """T = diag(A_1 ... A_heads): an invertible [head_dim, head_dim] matrix for each key/value head.

    It acts on the cache: keys after rotary embedding, with its inverse transpose on the queries, and values.
    """

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.heads, self.head_dim, _ = factors.shape
        self.size = self.heads * self.head_dim
        self.factors = nn.Parameter(factors.contiguous())

    @property
    def dual_factors(self) -> Tensor:
        """The inverse transposes, [heads, head_dim, head_dim]."""
        return torch.linalg.inv(self.factors).mT

    def apply_to(self, x: Tensor) -> Tensor:
        return _by_head(x, self.factors)

    def fold(self, weight: Tensor) -> Tensor:
        return _by_head(weight, self.dual_factors)

    def apply_to_keys(self, keys: Tensor) -> Tensor:
        """k A: [..., heads, tokens, head_dim]."""
        return keys @ self.factors

    def apply_to_queries(self, queries: Tensor) -> Tensor:
        """q A^-T: [..., heads * group, tokens, head_dim]; each key head serves a group of query heads."""
        return queries @ self.dual_factors.repeat_interleave(queries.shape[-3] // self.heads, dim=0)

    def apply_grouped(self, x: Tensor) -> Tensor:
        """`apply_to` for the input of o, whose [..., heads * group * head_dim] channels lie by query head."""
        return _by_head(x, self._grouped(self.factors, x))

    def fold_grouped(self, weight: Tensor) -> Tensor:
        """`fold` for the input of o, laid out as for `apply_grouped`."""
        return _by_head(weight, self._grouped(self.dual_factors, weight))

    def _grouped(self, factors: Tensor, x: Tensor) -> Tensor:
        return factors.repeat_interleave(x.shape[-1] // self.size, dim=0)


class HeadMixing(Transform):
    """T = P (x) I: mixes the heads of o's input, P [heads, heads]; the head_dim axis is the value transform's."""

    def __init__(self, mixing: Tensor, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.size = len(mixing) * head_dim
        self.mixing = nn.Parameter(mixing.contiguous())

    def apply_to(self, x: Tensor) -> Tensor:
        return self._mix(x, self.mixing)

    def fold(self, weight: Tensor) -> Tensor:
        return self._mix(weight, torch.linalg.inv(self.mixing).mT)

    def _mix(self, x: Tensor, mixing: Tensor) -> Tensor:
        heads = len(mixing)
        blocks = x.reshape(-1, heads, self.head_dim)
        return torch.bmm(mixing.T.expand(len(blocks), heads, heads), blocks).view(x.shape)
