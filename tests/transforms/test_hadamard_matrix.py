import time

import pytest
import torch

from altq.transforms.hadamard import randomized_hadamard
from altq.transforms.hadamard_matrix import hadamard_matrix, has_hadamard, orthogonal_hadamard

# Multiples of four up to 600 that need constructions this project leaves out.
MISSING = [188, 236, 260, 268, 292, 324, 356, 372, 376, 404, 412, 428, 436, 452, 472, 476, 508, 520, 532, 536, 584, 596]
FAMILY_SIZES = [12, 20, 28, 36, 40, 52, 60, 108, 172]


def assert_hadamard(matrix, order):
    assert matrix.shape == (order, order) and matrix.dtype == torch.float64
    assert bool((matrix.abs() == 1).all())
    # Sums of +-1 are exact in float64, and much faster than in int64.
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order, dtype=torch.float64))


def test_exactly_the_known_orders_up_to_600_can_be_constructed():
    expected = [1, 2] + [order for order in range(4, 601, 4) if order not in MISSING]
    assert [order for order in range(-3, 601) if has_hadamard(order)] == expected


def test_every_order_up_to_600_is_hadamard():
    for order in range(1, 601):
        if has_hadamard(order):
            assert_hadamard(hadamard_matrix(order), order)


@pytest.mark.parametrize("order", [size << doublings for size in FAMILY_SIZES for doublings in range(4)] + [576, 1536])
def test_sizes_of_the_model_families_are_hadamard(order):
    assert_hadamard(hadamard_matrix(order), order)


@pytest.mark.parametrize("order", [11008, 13824, 14336])
def test_large_sizes_are_constructible_and_their_rows_orthogonal(order):
    assert has_hadamard(order)
    matrix = hadamard_matrix(order)
    rows = torch.tensor([0, 1, 2, 171, 172, order // 2, order - 1])
    expected = torch.zeros(len(rows), order, dtype=torch.float64)
    expected[torch.arange(len(rows)), rows] = order
    assert torch.equal(matrix[rows] @ matrix.T, expected)


@pytest.mark.parametrize("order", [10, 26, 28, 50, 82, 126, 244, 344, 730])
def test_orders_over_fields_of_prime_powers(order):
    # 1 + 9, 25, 27, 49, 81, 125, 243, 343, 729: Paley I directly, Paley II at twice the order.
    order = order if order % 4 == 0 else 2 * order
    assert_hadamard(hadamard_matrix(order), order)


def test_the_smallest_matrices_are_sylvester_s():
    assert hadamard_matrix(1).tolist() == [[1]]
    assert hadamard_matrix(2).tolist() == [[1, 1], [1, -1]]
    assert hadamard_matrix(4).tolist() == [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]


@pytest.mark.parametrize("order", [172, 972, 1000])
def test_construction_under_order_1000_is_fast(order):
    start = time.process_time()
    hadamard_matrix(order)
    # It takes 0.03 s; the limit leaves room for a slow machine.
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (0, "at least 1"),
        (-4, "at least 1"),
        (3, "order 3 .* nearest orders are 2 and 4"),
        (188, "order 188 .* nearest orders are 184 and 192"),
        (578, "order 578 .* nearest orders are 576 and 580"),
        (668, "order 668 .* nearest orders are 664 and 672"),
    ],
)
def test_an_order_without_construction_is_refused_with_the_nearest_ones(order, message):
    assert not has_hadamard(order)
    with pytest.raises(ValueError, match=message):
        hadamard_matrix(order)


@pytest.mark.parametrize("order", [1, 2, 12, 172, 576])
def test_normalised_and_randomized_matrices_are_orthogonal(order):
    generator = torch.Generator().manual_seed(0)
    for matrix in (orthogonal_hadamard(order), randomized_hadamard(order, generator)):
        identity = torch.eye(order, dtype=torch.float64)
        assert torch.allclose(matrix @ matrix.T, identity, rtol=0, atol=1e-13)
        assert torch.allclose(matrix.T @ matrix, identity, rtol=0, atol=1e-13)


def test_randomized_matrices_differ_by_row_signs_alone_and_follow_their_seed():
    def randomized(seed):
        return randomized_hadamard(60, torch.Generator().manual_seed(seed))

    assert torch.equal(randomized(1), randomized(1))
    assert not torch.equal(randomized(1), randomized(2))
    ratio = randomized(1) / orthogonal_hadamard(60)
    assert torch.equal(ratio, ratio[:, :1].expand(60, 60))
    assert set(ratio[:, 0].tolist()) == {-1.0, 1.0}


def test_a_returned_matrix_is_the_caller_s_own():
    hadamard_matrix(12).zero_()
    assert_hadamard(hadamard_matrix(12), 12)
