"""GPTQ: rounding a weight matrix one input column after another, each column making up for the errors before it.

Frantar et al. (2023) update the columns still to come with rows of the Cholesky factor of the inverse Hessian. This
file computes the same codes without an inverse, by the form of Chee et al. (2023, QuIP, Theorem 6): with
H = R D R^T, R unit upper triangular, column k is rounded at w_k + sum over j < k of (w_j - q_j) R_jk. It takes one
Cholesky factorization instead of three cubic steps, and reads earlier errors where GPTQ rewrites later columns.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from altq.quantizers.groups import num_groups
from altq.quantizers.uniform import code_range

logger = logging.getLogger(__name__)

DAMPING = 0.01
# Damping beyond the mean diagonal would leave little of the Hessian: then the Hessian itself is wrong.
_LARGEST_DAMPING = 1.0
_SMALLEST_ESCALATION = 1e-4
# Hessians are sums in float32: this is far above their rounding and far below a wrong matrix.
_SYMMETRY_TOLERANCE = 1e-3


@dataclass(frozen=True)
class HessianFactor:
    """A Hessian, factored once for all the weights that share an input (q, k, v; gate, up).

    feedback: [d_in, d_in], unit lower triangular, contiguous: R^T of the damped and reordered Hessian H = R D R^T;
    order: [d_in], the column that is rounded at each place, or None where columns keep their order;
    damping: the share of the mean diagonal that was added in the end (more than asked where Cholesky failed).
    """

    feedback: Tensor
    order: Tensor | None
    damping: float


def factorize_hessian(
    hessian: Tensor, *, damping: float = DAMPING, act_order: bool = False, dtype: torch.dtype = torch.float32
) -> HessianFactor:
    """Factor a Hessian for `gptq_round`, in float64, and store the result in `dtype` (that of the weights).

    hessian: [d_in, d_in], sum or mean of x x^T over the inputs as the layer sees them (its scale does not matter);
    damping: this share of the mean diagonal is added to the diagonal; act_order: round the columns in the order of
    falling diagonal. Where Cholesky fails, damping is raised tenfold, with a warning in the log. A dead column (an
    input that was always zero) is tied to no other: it is rounded to nearest, and its error moves nothing. So is every
    column where the Hessian is zero.
    Raises ValueError for a Hessian that is not square, not finite, not symmetric, has a negative diagonal, or is still
    not positive definite with as much damping as its mean diagonal.
    """
    if not (0 <= damping <= _LARGEST_DAMPING):
        raise ValueError(f"GPTQ damping {damping} is not between 0 and {_LARGEST_DAMPING}")
    diagonal = _checked_diagonal(hessian)
    order = diagonal.argsort(descending=True, stable=True) if act_order else None
    if order is not None:
        diagonal = diagonal[order]
    flipped_diagonal = diagonal.flip(0)
    live = flipped_diagonal > 0
    mean = float(flipped_diagonal[live].mean()) if live.any() else 1.0
    flipped_diagonal = torch.where(live, flipped_diagonal, mean)

    while True:
        # A matrix [d_in, d_in] is the largest tensor in memory: there is one in float64, which its factor overwrites.
        # Transposing gives LAPACK's column-major order and leaves a symmetric matrix as it is.
        lower = _flipped(hessian, order).to(torch.float64).mT
        lower.diagonal().copy_(flipped_diagonal + damping * mean)
        info = torch.empty((), dtype=torch.int32, device=lower.device)
        torch.linalg.cholesky_ex(lower, out=(lower, info))
        if int(info) == 0:
            break
        larger_damping = max(10 * damping, _SMALLEST_ESCALATION)
        if larger_damping > _LARGEST_DAMPING:
            raise ValueError(
                f"Hessian of {len(diagonal)} inputs is not positive definite with damping {damping:g} of its mean "
                f"diagonal {mean:g}; a sum of x x^T always is: look at how it was summed"
            )
        logger.warning(
            "GPTQ: Hessian of %d inputs is not positive definite with damping %g; trying %g",
            len(diagonal), damping, larger_damping,
        )  # fmt: skip
        damping = larger_damping

    lower.div_(lower.diagonal().clone())
    upper = lower.T.to(dtype)
    del lower
    return HessianFactor(upper.flip(0, 1).contiguous(), order, damping)


def _flipped(hessian: Tensor, order: Tensor | None) -> Tensor:
    """A copy in order, then reversed: Cholesky gives lower times upper; reversed, that is the upper times lower."""
    if order is None:
        return hessian.flip(0, 1)
    backwards = order.flip(0)
    return hessian.index_select(0, backwards).index_select(1, backwards)


class _Grid(NamedTuple):
    """How one column is rounded: its step, the code of 0, the range of codes less that one; [d_out] or [] for all rows."""

    step: Tensor | None
    zero: Tensor | None
    lowest: Tensor
    highest: Tensor


def gptq_round(
    weight: Tensor,
    scale: Tensor,
    bits: int,
    hessian: Tensor | HessianFactor,
    *,
    zero: Tensor | None = None,
    group: int | None = None,
    block_size: int = 128,
    damping: float | None = None,
    act_order: bool | None = None,
) -> Tensor:
    """Codes of a weight matrix such that scale * codes keeps the layer's outputs (GPTQ; see the head of this file).

    weight: [d_out, d_in], float32 or float64 (the arithmetic is done in it); rows are independent, so that weights that
    share an input are fastest stacked into one; scale: [d_out, groups], of either sign, fixed beforehand; zero: the
    codes that stand for 0, [d_out, groups], or None where that is 0; group: columns that share a scale, whatever the
    order in which they are rounded, None for whole rows; hessian: [d_in, d_in] or its factor; block_size: columns that
    are rounded between two matrix products, which changes speed and rounding errors alone. `damping` (0.01) and
    `act_order` (False) are those of `factorize_hessian`; a factor has them in it.
    Returns int8 [d_out, d_in], each code in [-2^(bits-1), 2^(bits-1) - 1].
    Raises ValueError for bits outside 2 to 8, shapes or dtypes that do not fit, non-finite input, a scale of 0.
    """
    if isinstance(hessian, HessianFactor):
        if damping is not None or act_order is not None:
            raise ValueError("damping and act_order are fixed in a HessianFactor: give them to factorize_hessian")
        factor = hessian
    else:
        damping = DAMPING if damping is None else damping
        factor = factorize_hessian(hessian, damping=damping, act_order=bool(act_order), dtype=weight.dtype)
    _check(weight, scale, bits=bits, factor=factor, block_size=block_size, zero=zero, group=group)

    # A column of the weight is a contiguous row. It is in units of its scale where the whole row has one, so that no
    # column needs to be scaled; groups feed their errors to one another in the weight's own units.
    units = scale if group is None else torch.ones_like(scale[:, :1])
    error = (weight / units).T.contiguous()  # [d_in, d_out]; each row becomes w - q once it is rounded
    groups = torch.arange(len(error)) // (group or len(error))
    if factor.order is not None:
        error = error.index_select(0, factor.order)
        groups = groups[factor.order.cpu()]
    grids = _column_grids(None if group is None else scale, zero, bits=bits, groups=groups, like=weight)
    codes = torch.empty_like(error)
    for start in range(0, len(error), block_size):
        block = slice(start, start + block_size)
        targets = factor.feedback[block, :start] @ error[:start]
        block_errors, rows = error[block].T, factor.feedback[block, block]
        # Whole rows of the block: the unit diagonal adds the weight itself, and the zeros after it cost less than
        # cutting a shorter row would.
        for row, target, row_error, code in zip(
            rows.unbind(0), targets.unbind(0), error[block].unbind(0), codes[block].unbind(0), strict=True
        ):
            target.addmv_(block_errors, row)
            step, zero_code, lowest, highest = next(grids)
            torch.round(target if step is None else target / step, out=code)
            code.clamp_(lowest, highest)
            row_error.sub_(code if step is None else code * step)
            if zero_code is not None:
                code.add_(zero_code)

    # Overflow in the feedback would end in a finite, meaningless code.
    if not _is_finite(error):
        raise ValueError("GPTQ: errors fed back grew beyond all bounds; raise the damping")
    if factor.order is not None:
        codes = codes[factor.order.argsort()]
    return codes.T.to(torch.int8).contiguous()


def _column_grids(
    scale: Tensor | None, zero: Tensor | None, *, bits: int, groups: Tensor, like: Tensor
) -> Iterator[_Grid]:
    """The grid of each column, by the index of its group; scale: [d_out, groups], None where errors are in units of it."""
    lowest, highest = (like.new_tensor(code) for code in code_range(bits))
    of_groups: dict[int, _Grid] = {}
    for index in groups.unique().tolist():
        step = None if scale is None else scale[:, index].contiguous()
        if zero is None:
            of_groups[index] = _Grid(step, None, lowest, highest)
        else:
            code = zero[:, index].to(like)
            of_groups[index] = _Grid(step, code, lowest - code, highest - code)
    return (of_groups[index] for index in groups.tolist())


def _is_finite(tensor: Tensor) -> bool:
    # The extremes are NaN if any entry is; one pass and no tensor of booleans.
    lowest, highest = tensor.aminmax()
    return math.isfinite(lowest) and math.isfinite(highest)


def _checked_diagonal(hessian: Tensor) -> Tensor:
    """The diagonal in float64 of a matrix that can be a sum of x x^T."""
    shape = list(hessian.shape)
    if hessian.dim() != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ValueError(f"a Hessian is [d_in, d_in], not {shape}")
    if not _is_finite(hessian):
        raise ValueError(f"Hessian {shape} holds NaN or infinity: look for overflow in the layer's inputs")
    diagonal = hessian.diagonal().to(torch.float64)
    largest = float(diagonal.max())
    if float(diagonal.min()) < 0:
        raise ValueError(
            f"Hessian {shape} has a diagonal from {float(diagonal.min()):g} to {largest:g}; sums of squares "
            "are not negative: look at how it was summed"
        )
    asymmetry = float((hessian - hessian.T).max())
    if asymmetry > _SYMMETRY_TOLERANCE * largest:
        raise ValueError(f"Hessian {shape} is not symmetric: it differs from its transpose by {asymmetry:g}")
    return diagonal


def _check(
    weight: Tensor,
    scale: Tensor,
    bits: int,
    factor: HessianFactor,
    block_size: int,
    *,
    zero: Tensor | None,
    group: int | None,
) -> None:
    if not 2 <= bits <= 8:
        raise ValueError(f"GPTQ cannot round to {bits} bits; give 2 to 8")
    if block_size < 1:
        raise ValueError(f"GPTQ block size {block_size} is not positive")
    if weight.dim() != 2 or weight.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"GPTQ needs a float32 or float64 matrix, not {weight.dtype} {list(weight.shape)}")
    if group is not None and not 1 <= group <= weight.shape[1]:
        raise ValueError(f"a weight of {weight.shape[1]} columns has no groups of {group}")
    expected = [weight.shape[0], num_groups(weight.shape[1], group)]
    if list(scale.shape) != expected or scale.dtype != weight.dtype:
        raise ValueError(
            f"a weight {list(weight.shape)} in {weight.dtype} needs a scale {expected} in the same dtype, "
            f"not {list(scale.shape)} in {scale.dtype}"
        )
    if zero is not None and list(zero.shape) != expected:
        raise ValueError(f"a weight {list(weight.shape)} needs zero points {expected}, not {list(zero.shape)}")
    if factor.feedback.shape[0] != weight.shape[1] or factor.feedback.dtype != weight.dtype:
        raise ValueError(
            f"a weight {list(weight.shape)} in {weight.dtype} needs a Hessian of {weight.shape[1]} inputs in the same "
            f"dtype, not {factor.feedback.shape[0]} in {factor.feedback.dtype}"
        )
    if not _is_finite(weight):
        raise ValueError(f"weight {list(weight.shape)} holds NaN or infinity")
    if not (_is_finite(scale) and bool((scale != 0).all())):
        raise ValueError("scale holds values that are zero or not finite; a row of zeros still needs a scale")
