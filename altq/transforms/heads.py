"""Transformations laid out by attention heads: one matrix within each head, or one that mixes the heads."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from altq.transforms.kronecker import apply_kronecker, multiply_runs
from altq.transforms.rotation import stiefel_parameter
from altq.transforms.transform import Transform, inverse_of


class HeadTransform(Transform):
    """T = diag(A_1 ... A_heads): an invertible [head_dim, head_dim] matrix for each key/value head.

    It acts on the cache: keys after rotary embedding, with its inverse transpose on the queries, and values.
    Subclasses have `factors` and `dual_factors`: A and A^-T, [heads, head_dim, head_dim].
    """

    if TYPE_CHECKING:
        # A subclass may hold them as a parameter, which a property here would hide.
        @property
        def factors(self) -> Tensor: ...
        @property
        def dual_factors(self) -> Tensor: ...

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__(heads * head_dim)
        self.heads, self.head_dim = heads, head_dim

    def apply_to(self, x: Tensor) -> Tensor:
        return multiply_runs(x, self.factors)

    def fold(self, weight: Tensor) -> Tensor:
        return multiply_runs(weight, self.dual_factors)

    def apply_to_keys(self, keys: Tensor) -> Tensor:
        """k A: [..., heads, tokens, head_dim]."""
        return keys @ self.factors

    def apply_to_queries(self, queries: Tensor) -> Tensor:
        """q A^-T: [..., heads * group, tokens, head_dim]; each key head serves a group of query heads."""
        return queries @ self.dual_factors.repeat_interleave(queries.shape[-3] // self.heads, dim=0)

    def apply_grouped(self, x: Tensor) -> Tensor:
        """`apply_to` for the input of o, whose [..., heads * group * head_dim] channels lie by query head."""
        return multiply_runs(x, self._grouped(self.factors, x))

    def fold_grouped(self, weight: Tensor) -> Tensor:
        """`fold` for the input of o, laid out as for `apply_grouped`."""
        return multiply_runs(weight, self._grouped(self.dual_factors, weight))

    def _grouped(self, factors: Tensor, x: Tensor) -> Tensor:
        return factors.repeat_interleave(x.shape[-1] // self.size, dim=0)


class HeadAffine(HeadTransform):
    """Free invertible factors [heads, head_dim, head_dim]."""

    factors: Tensor

    def __init__(self, factors: Tensor) -> None:
        heads, head_dim, _ = factors.shape
        super().__init__(heads, head_dim)
        self.factors = nn.Parameter(factors.contiguous())

    @property
    def dual_factors(self) -> Tensor:
        return inverse_of(self.factors).mT


class HeadRotation(HeadTransform):
    """A = R diag(s): orthogonal R, one for all heads [1, head_dim, head_dim] or one for each, then scales s > 0.

    R is on its manifold (SpinQuant's R2, OSTQuant's R_ov), s [heads, head_dim] is free (OSTQuant's S_ov).
    """

    def __init__(self, rotation: Tensor, scale: Tensor) -> None:
        heads, head_dim = scale.shape
        super().__init__(heads, head_dim)
        self.rotation = stiefel_parameter(rotation)
        self.log_scale = nn.Parameter(scale.log())

    def as_affine(self) -> HeadAffine:
        """Equal map with free factors, the form in which it is stored."""
        return HeadAffine(self.factors.detach())

    @property
    def factors(self) -> Tensor:
        return self.rotation * self.log_scale.exp().unsqueeze(-2)

    @property
    def dual_factors(self) -> Tensor:
        return self.rotation * (-self.log_scale).exp().unsqueeze(-2)


class HeadMixing(Transform):
    """T = P (x) I: mixes the heads of o's input, P [heads, heads]; the head_dim axis is the value transform's."""

    def __init__(self, mixing: Tensor, size: int) -> None:
        super().__init__(size)
        self.mixing = nn.Parameter(mixing.contiguous())

    def apply_to(self, x: Tensor) -> Tensor:
        return apply_kronecker(x, self.mixing, None)

    def fold(self, weight: Tensor) -> Tensor:
        return apply_kronecker(weight, inverse_of(self.mixing).mT, None)
