"""Starting points of the transformations, from second moments and a generator.

balance   the closed form of altq/transforms/balance.py, then a Hadamard factor that spreads the energy evenly
hadamard  Hadamard factors
random    Haar-random orthogonal factors (the paper's start)
cayley    U V^T, each the Cayley image of a Haar-random orthogonal matrix: moderate rotations (FlatQuant's start)
"""

import torch
from torch import Tensor

from altq.transforms.affine import Affine
from altq.transforms.balance import Balance, balance_factors, balance_matrix
from altq.transforms.hadamard import Hadamard, hadamard_factor
from altq.transforms.hadamard_matrix import has_hadamard
from altq.transforms.heads import HeadAffine, HeadMixing
from altq.transforms.identity import Identity
from altq.transforms.kronecker import factor_sizes
from altq.transforms.rotation import Rotation, cayley_image, random_orthogonal
from altq.transforms.scaling import Scaled, Scaling
from altq.transforms.transform import Transform

STARTS = ("balance", "hadamard", "random", "cayley")

LONGEST_RUN = 128
"""Channels that `balance` balances together at most (CAT's block size)."""

ROWS_AT_A_TIME = 64
"""Of a moment that is scaled: of the widest input that there is, 28,672 channels, 15 MB."""


def run_sizes(size: int, longest_run: int = LONGEST_RUN) -> tuple[int, int]:
    """(number of runs, channels in a run) for `balance`: the longest runs for which both have a Hadamard matrix."""
    lengths = [k for k in range(1, min(size, longest_run) + 1) if size % k == 0]
    longest = max((k for k in lengths if has_hadamard(k) and has_hadamard(size // k)), default=lengths[-1])
    return size // longest, longest


def spreading_factor(start: str, size: int, generator: torch.Generator) -> Tensor:
    """The orthogonal factor that stands last in a start: Hadamard, unless the start is a random one."""
    if start == "random":
        return random_orthogonal(size, generator)
    if start == "cayley":
        left, right = (cayley_image(random_orthogonal(size, generator)) for _ in range(2))
        return left @ right.T
    return hadamard_factor(size, generator)


def start_transform(
    kind: str,
    moment_x: Tensor,
    moment_w: Tensor,
    scale: Tensor | None,
    *,
    start: str,
    structure: str,
    generator: torch.Generator,
    longest_run: int = LONGEST_RUN,
) -> Transform:
    """The transformation of one kind at the input of linear layers before any step, in float32.

    moment_x [d, d] is the second moment of the input, moment_w [d, d] that of what reads it: its sensitivity.
    scale [d] is the per-channel scaling that stands before the kind; None for no scaling.
    """
    if kind == "identity":
        return Identity(len(moment_x))
    moment_x, moment_w = (moment.to(torch.float64, copy=True) for moment in (moment_x, moment_w))
    if kind == "scaling":
        return Scaling(torch.ones(len(moment_x), device=moment_x.device) if scale is None else scale).float()
    if scale is None:
        return _online(
            kind,
            moment_x,
            moment_w=moment_w,
            start=start,
            structure=structure,
            generator=generator,
            longest_run=longest_run,
        ).float()
    # The largest matrices that there are: in place, some rows at a time.
    for rows_x, rows_w, row_scales in zip(*(m.split(ROWS_AT_A_TIME) for m in (moment_x, moment_w, scale)), strict=True):
        scales = row_scales.unsqueeze(1) * scale
        rows_x.mul_(scales)
        rows_w.div_(scales)
    online = _online(
        kind,
        moment_x,
        moment_w=moment_w,
        start=start,
        structure=structure,
        generator=generator,
        longest_run=longest_run,
    )
    return Scaled(Scaling(scale), online).float()


def _online(
    kind: str,
    moment_x: Tensor,
    moment_w: Tensor,
    start: str,
    structure: str,
    generator: torch.Generator,
    longest_run: int,
) -> Transform:
    size = len(moment_x)
    if kind == "hadamard":
        return Hadamard.of_size(size, generator).to(moment_x.device)
    sizes = factor_sizes(size)
    if kind == "rotation" and structure == "full":
        sizes = 1, size
    if kind == "balance":
        sizes = run_sizes(size, longest_run)
    left, right = (spreading_factor(start, d, generator).to(moment_x.device) for d in sizes)
    if kind == "rotation":
        return Rotation(left, right)
    if kind == "balance":
        return Balance.from_moments(moment_x, moment_w, left=left, right=right)
    if start == "balance":
        balanced_left, balanced_right = balance_factors(moment_x, moment_w, sizes)
        left, right = balanced_left @ left, balanced_right @ right
    return Affine(left, right)


def start_heads(moment_x: Tensor, moment_w: Tensor, *, start: str, generator: torch.Generator) -> HeadAffine:
    """The transformation of keys or values before any step, from [kv_heads, d, d] moments and sensitivities."""
    heads, head_dim, _ = moment_x.shape
    factors = torch.stack([spreading_factor(start, head_dim, generator) for _ in range(heads)]).to(moment_x.device)
    if start == "balance":
        factors = balance_matrix(moment_x, moment_w) @ factors
    return HeadAffine(factors).float()


def start_mixing(
    moment_x: Tensor, moment_w: Tensor, heads: int, *, start: str, generator: torch.Generator
) -> HeadMixing:
    """The transformation that mixes the heads of o's input, from [heads * d, heads * d] moments after the value's."""
    head_dim = len(moment_x) // heads
    mixing = spreading_factor(start, heads, generator).to(moment_x.device)
    if start == "balance":
        over_dims_x, over_dims_w = (
            m.double().view(heads, head_dim, heads, head_dim).diagonal(dim1=1, dim2=3).sum(-1)
            for m in (moment_x, moment_w)
        )
        mixing = balance_matrix(over_dims_x, over_dims_w) @ mixing
    return HeadMixing(mixing, len(moment_x)).float()
