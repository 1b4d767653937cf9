"""The closed forms against the energy that they minimise: tr(T^T Sx T) tr(T^-1 Sw T^-T)."""

import itertools
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from altq.transforms import balance
from altq.transforms.balance import Balance, balance_factors, balance_matrix, balance_scaling, with_ridge
from altq.transforms.rotation import random_orthogonal

SEEDS = st.integers(0, 2**31)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment(size, seed):
    """A second moment with correlated channels of unequal size."""
    rows = normal(2 * size, size, seed=seed) @ normal(size, size, seed=seed + 1) * normal(size, seed=seed + 2).exp()
    return rows.T @ rows / len(rows)


def energy(transform, moment_x, moment_w):
    inverse = torch.linalg.inv(transform)
    return ((transform.T @ moment_x @ transform).trace() * (inverse @ moment_w @ inverse.T).trace()).item()


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 24), seed=SEEDS, ridge=st.sampled_from([0.0, 1e-2]))
def test_balance_matrix_makes_both_moments_the_same_diagonal(size, seed, ridge):
    moment_x, moment_w = moment(size, seed), moment(size, seed + 7)
    transform = balance_matrix(moment_x, moment_w, ridge)
    inverse = torch.linalg.inv(transform)
    seen = transform.T @ with_ridge(moment_x, ridge) @ transform
    read = inverse @ with_ridge(moment_w, ridge) @ inverse.T
    largest = seen.diagonal().max()
    torch.testing.assert_close(seen / largest, read / largest, rtol=1e-6, atol=1e-8)
    assert (seen - torch.diag(seen.diagonal())).abs().max() < 1e-8 * largest
    assert (seen.diagonal().diff() <= 1e-8 * largest).all()  # decreasing


@pytest.mark.parametrize("size", [2, 7, 12])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_other_matrix_has_less_energy(size, seed):
    moment_x, moment_w = moment(size, seed), moment(size, seed + 7)
    best = balance_matrix(moment_x, moment_w, ridge=0)
    least = energy(best, moment_x, moment_w)
    # The nuclear norm of Sx^(1/2) Sw^(1/2), squared: the bound of Cauchy and Schwarz.
    roots = [torch.linalg.cholesky(m) for m in (moment_x, moment_w)]
    bound = torch.linalg.svdvals(roots[0].T @ roots[1]).sum().square().item()
    assert least == pytest.approx(bound, rel=1e-8)
    assert least < energy(torch.eye(size, dtype=torch.float64), moment_x, moment_w)
    for trial in range(20):
        change = normal(size, size, seed=trial)
        for step in (1e-3, 1e-1):
            changed = best @ (torch.eye(size, dtype=torch.float64) + step * change)
            assert energy(changed, moment_x, moment_w) >= least * (1 - 1e-9)
        # A rotation behind it changes nothing.
        rotation = random_orthogonal(size, torch.Generator().manual_seed(trial))
        assert energy(best @ rotation, moment_x, moment_w) == pytest.approx(least, rel=1e-8)


def test_balance_matrix_by_hand():
    # Diagonal moments: s^4 = w / x, in the order of decreasing sqrt(x w) = 6, 2.
    moment_x, moment_w = torch.diag(torch.tensor([4.0, 1.0])), torch.diag(torch.tensor([1.0, 36.0]))
    found = balance_matrix(moment_x, moment_w, ridge=0).abs()
    expected = torch.tensor([[0.0, 0.25**0.25], [36**0.25, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_batch_is_balanced_one_by_one():
    moment_x, moment_w = (torch.stack([moment(5, seed) for seed in seeds]) for seeds in ((0, 1, 2), (3, 4, 5)))
    together = balance_matrix(moment_x, moment_w)
    for i in range(3):
        alone = balance_matrix(moment_x[i], moment_w[i])
        torch.testing.assert_close(together[i].abs(), alone.abs())  # eigenvectors have no sign of their own


def test_channels_never_seen_do_not_blow_up():
    moment_x, moment_w = moment(6, 0), moment(6, 1)
    moment_x[2], moment_x[:, 2] = 0, 0
    moment_w[4], moment_w[:, 4] = 0, 0
    for transform in (balance_matrix(moment_x, moment_w), torch.diag(balance_scaling(moment_x, moment_w))):
        assert torch.isfinite(transform).all() and torch.linalg.cond(transform) < 1e3


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_other_diagonal_has_less_energy(seed, monkeypatch):
    monkeypatch.setattr(balance, "RIDGE", 0.0)
    moment_x, moment_w = moment(9, seed), moment(9, seed + 7)
    scale = balance_scaling(moment_x, moment_w)
    least = energy(torch.diag(scale), moment_x, moment_w)
    assert least < energy(torch.eye(9, dtype=torch.float64), moment_x, moment_w)
    for trial in range(20):
        assert energy(torch.diag(scale * (0.1 * normal(9, seed=trial)).exp()), moment_x, moment_w) > least


@settings(max_examples=15, deadline=None)
@given(sizes=st.sampled_from([(2, 3), (3, 5), (1, 7), (6, 6), (4, 1)]), seed=SEEDS)
def test_no_sweep_increases_the_energy(sizes, seed):
    size = sizes[0] * sizes[1]
    moment_x, moment_w = moment(size, seed), moment(size, seed + 7)
    exact = partial(balance_matrix, ridge=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(balance, "balance_matrix", exact)
        energies = [energy(torch.eye(size, dtype=torch.float64), moment_x, moment_w)]
        for sweeps in range(1, 5):
            patch.setattr(balance, "NUM_SWEEPS", sweeps)
            left, right = balance_factors(moment_x, moment_w, sizes)
            energies.append(energy(torch.kron(left, right), moment_x, moment_w))
    assert all(after <= before * (1 + 1e-8) for before, after in itertools.pairwise(energies))
    least = energy(balance_matrix(moment_x, moment_w, ridge=0), moment_x, moment_w)
    assert energies[-1] >= least * (1 - 1e-8)


@settings(max_examples=25, deadline=None)
@given(sizes=st.sampled_from([(2, 3), (3, 5), (1, 7), (6, 6)]), seed=SEEDS)
def test_factors_have_less_energy_than_none_and_behind_a_scaling_less_than_the_scaling(sizes, seed):
    size = sizes[0] * sizes[1]
    # The ridge bounds condition numbers at some cost in energy: so these are the moments that it is added to.
    moment_x, moment_w = (with_ridge(moment(size, s)) for s in (seed, seed + 7))
    eye = torch.eye(size, dtype=torch.float64)
    factors = torch.kron(*balance_factors(moment_x, moment_w, sizes))
    assert energy(factors, moment_x, moment_w) <= energy(eye, moment_x, moment_w) * (1 + 1e-6)
    scaling = torch.diag(balance_scaling(moment_x, moment_w))
    behind = scaling @ moment_x @ scaling, torch.linalg.inv(scaling) @ moment_w @ torch.linalg.inv(scaling)
    both = scaling @ torch.kron(*balance_factors(*behind, sizes))
    assert energy(scaling, moment_x, moment_w) <= energy(eye, moment_x, moment_w) * (1 + 1e-6)
    assert energy(both, moment_x, moment_w) <= energy(scaling, moment_x, moment_w) * (1 + 1e-6)


def test_factors_of_kronecker_moments_are_optimal():
    # With Sx = A (x) B and Sw = C (x) D the best matrix of all is itself a Kronecker product.
    a, b, c, d = moment(3, 0), moment(4, 1), moment(3, 2), moment(4, 3)
    moment_x, moment_w = torch.kron(a, b), torch.kron(c, d)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(balance, "balance_matrix", partial(balance_matrix, ridge=0))
        left, right = balance_factors(moment_x, moment_w, (3, 4))
    least = energy(balance_matrix(moment_x, moment_w, ridge=0), moment_x, moment_w)
    assert energy(torch.kron(left, right), moment_x, moment_w) == pytest.approx(least, rel=1e-8)


def test_balance_is_the_block_matrix_behind_which_the_factors_spread():
    moment_x, moment_w = moment(12, 0), moment(12, 1)
    generator = torch.Generator().manual_seed(0)
    left, right = random_orthogonal(3, generator), random_orthogonal(4, generator)
    blocks = [balance_matrix(*(m[i : i + 4, i : i + 4] for m in (moment_x, moment_w))) for i in (0, 4, 8)]
    expected = torch.block_diag(*blocks) @ torch.kron(left, right)
    transform = Balance.from_moments(moment_x, moment_w, left, right)
    torch.testing.assert_close(transform.matrix(), expected, rtol=1e-10, atol=1e-10)
