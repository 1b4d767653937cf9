"""Closed-form transformations from second moments alone (CAT, arXiv 2603.04359; WUSH, arXiv 2512.00956).

With Sx = E[x^T x] of the activations and Sw = W^T W of the weights, quantization noise with a scale per token and per
output channel has energy proportional to tr(T^T Sx T) tr(T^-1 Sw T^-T). It is smallest where both moments agree:
T^T Sx T = T^-1 Sw T^-T = C^(1/2), C = Sx^(1/2) Sw Sx^(1/2).
"""

import torch
from torch import Tensor

from altq.transforms.kronecker import apply_kronecker, multiply_runs, partial_moment
from altq.transforms.transform import Transform, inverse_of

RIDGE = 1e-2
"""Added to both moments, relative to their mean diagonal: directions that were never seen must not blow up."""

NUM_SWEEPS = 4


def with_ridge(moment: Tensor, ridge: float = RIDGE) -> Tensor:
    """S + ridge * mean(diag S) * I, for [..., d, d]."""
    mean = moment.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    return moment + ridge * mean * torch.eye(moment.shape[-1], dtype=moment.dtype, device=moment.device)


def without_signal(moment_x: Tensor, moment_w: Tensor) -> Tensor:
    """Mask [...] of pairs in which a moment [..., d, d] is zero; a moment that is not finite is not zero."""
    zero = [(moment.diagonal(dim1=-2, dim2=-1) == 0).all(-1) for moment in (moment_x, moment_w)]
    return zero[0] | zero[1]


def balance_matrix(moment_x: Tensor, moment_w: Tensor, ridge: float = RIDGE) -> Tensor:
    """T [..., d, d] with T^T Sx T = T^-1 Sw T^-T = Lambda^(1/2), diagonal and decreasing; I where one of them is zero.

    The eigenvectors of C are part of T, so that a Hadamard matrix behind it spreads the energy evenly:
    H^T Lambda H has a constant diagonal. Computed in float64 from [..., d, d] moments.
    """
    eye = torch.eye(moment_x.shape[-1], dtype=torch.float64, device=moment_x.device)
    silent = without_signal(moment_x, moment_w)[..., None, None]
    moment_x, moment_w = (with_ridge(torch.where(silent, eye, m.double()), ridge) for m in (moment_x, moment_w))
    values, vectors = torch.linalg.eigh(moment_x)
    root = vectors * values.sqrt().unsqueeze(-2) @ vectors.mT
    inverse_root = vectors * values.rsqrt().unsqueeze(-2) @ vectors.mT
    spectrum, basis = torch.linalg.eigh(root @ moment_w @ root)
    return torch.where(silent, eye, (inverse_root @ basis * spectrum.pow(0.25).unsqueeze(-2)).flip(-1))


def balance_scaling(moment_x: Tensor, moment_w: Tensor) -> Tensor:
    """The best diagonal T: s_i = (Sw_ii / Sx_ii)^(1/4), [d]; 1 where one of both moments is zero."""
    x, w = (m.diagonal().double() for m in (moment_x, moment_w))
    scale = ((w + RIDGE * w.mean()) / (x + RIDGE * x.mean())).pow(0.25)
    return torch.where(without_signal(moment_x, moment_w), 1.0, scale)


def balance_factors(moment_x: Tensor, moment_w: Tensor, sizes: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Kronecker factors (L [d1, d1], R [d2, d2]) that minimise tr(T^T Sx T) tr(T^-1 Sw T^-T).

    Alternating: with one factor fixed the other has the closed form of `balance_matrix` on the partial moments, so
    that no sweep increases the energy.
    """
    moment_x, moment_w = moment_x.double(), moment_w.double()
    left, right = (torch.eye(d, dtype=torch.float64, device=moment_x.device) for d in sizes)
    for _ in range(NUM_SWEEPS):
        for axis in (0, 1):
            other = right if axis == 0 else left
            gram = other @ other.T
            factor = balance_matrix(
                partial_moment(moment_x, gram, axis), partial_moment(moment_w, torch.linalg.inv(gram), axis)
            )
            left, right = (factor, right) if axis == 0 else (left, factor)
    return left, right


class Balance(Transform):
    """Closed-form balance as a transformation without training: T = diag(M_1 ... M_n) (L (x) R).

    M_i [k, k] balances the i-th run of k channels; orthogonal L [n, n] and R [k, k] spread over all of them.
    Its online cost is that of a Kronecker product of the same sizes, with a matrix of its own for each run.
    """

    runs: Tensor
    left: Tensor

    def __init__(self, runs: Tensor, left: Tensor) -> None:
        super().__init__(runs.shape[0] * runs.shape[1])
        self.register_buffer("runs", runs.contiguous())
        self.register_buffer("left", left.contiguous())

    @classmethod
    def from_moments(cls, moment_x: Tensor, moment_w: Tensor, left: Tensor, right: Tensor) -> "Balance":
        """Balance runs of len(right) channels of [d, d] moments, then spread by orthogonal factors."""
        size = len(right)
        runs_x, runs_w = (
            torch.stack([moment[i : i + size, i : i + size] for i in range(0, len(moment), size)])
            for moment in (moment_x, moment_w)
        )
        return cls(balance_matrix(runs_x, runs_w) @ right, left)

    def apply_to(self, x: Tensor) -> Tensor:
        return apply_kronecker(multiply_runs(x, self.runs), self.left, None)

    def fold(self, weight: Tensor) -> Tensor:
        return apply_kronecker(multiply_runs(weight, inverse_of(self.runs).mT), self.left, None)
