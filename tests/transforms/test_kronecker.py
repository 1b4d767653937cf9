import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from altq.transforms.kronecker import apply_kronecker, factor_sizes, multiply_runs, partial_moment

SEEDS = st.integers(0, 2**31)
SMALL = st.integers(1, 7)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(d1=SMALL, d2=SMALL, rows=st.sampled_from([(), (1,), (5,), (2, 3)]), seed=SEEDS)
def test_apply_equals_the_product_with_torch_kron(d1, d2, rows, seed):
    left, right, x = normal(d1, d1, seed=seed), normal(d2, d2, seed=seed + 1), normal(*rows, d1 * d2, seed=seed + 2)
    torch.testing.assert_close(apply_kronecker(x, left, right), x @ torch.kron(left, right), rtol=1e-12, atol=1e-12)
    eye = torch.eye(d2, dtype=torch.float64)
    torch.testing.assert_close(apply_kronecker(x, left, None), x @ torch.kron(left, eye), rtol=1e-12, atol=1e-12)


def test_apply_takes_an_input_that_is_not_contiguous():
    left, right, x = normal(2, 2), normal(3, 3), normal(6, 5, seed=1)
    torch.testing.assert_close(apply_kronecker(x.T, left, right), x.T @ torch.kron(left, right))


@settings(max_examples=30, deadline=None)
@given(runs=SMALL, size=SMALL, seed=SEEDS)
def test_runs_equal_the_block_diagonal_matrix(runs, size, seed):
    factors, x = normal(runs, size, size, seed=seed), normal(2, 3, runs * size, seed=seed + 1)
    expected = x @ torch.block_diag(*factors)
    torch.testing.assert_close(multiply_runs(x, factors), expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(d1=SMALL, d2=SMALL, seed=SEEDS)
def test_partial_moments_give_the_energy_of_a_kronecker_product(d1, d2, seed):
    rows, left, right = normal(9, d1 * d2, seed=seed), normal(d1, d1, seed=seed + 1), normal(d2, d2, seed=seed + 2)
    moment = rows.T @ rows
    transform = torch.kron(left, right)
    energy = (transform.T @ moment @ transform).trace()
    by_left, by_right = partial_moment(moment, right @ right.T, 0), partial_moment(moment, left @ left.T, 1)
    # With one factor fixed the energy is that of the other factor alone.
    torch.testing.assert_close((left.T @ by_left @ left).trace(), energy, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close((right.T @ by_right @ right).trace(), energy, rtol=1e-11, atol=1e-12)


def test_partial_moments_by_hand():
    # X = [[1, 2], [3, 4]] as the row (1, 2, 3, 4): X X^T and X^T X.
    row = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    by_left, by_right = (partial_moment(row.T @ row, torch.eye(2), axis) for axis in (0, 1))
    assert by_left.tolist() == [[5, 11], [11, 25]]
    assert by_right.tolist() == [[10, 14], [14, 20]]


@pytest.mark.parametrize(
    ("size", "sizes"),
    [(1, (1, 1)), (13, (1, 13)), (36, (6, 6)), (576, (24, 24)), (1536, (32, 48)), (4096, (64, 64)), (11008, (86, 128))],
)
def test_factor_sizes_are_nearest_to_the_square_root(size, sizes):
    assert factor_sizes(size) == sizes
