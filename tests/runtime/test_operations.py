"""Counts of operations, bytes and live tensors."""

import pytest
import torch

from altq.runtime.operations import counted


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_product_reads_both_and_writes_one(device):
    a, b = torch.empty(3, 5, device=device), torch.empty(5, 7, device=device)
    with counted() as operations:
        a @ b
    assert operations.products == 2 * 3 * 5 * 7
    assert operations.moved == 4 * (15 + 35 + 21) and operations.launches == 1
    assert operations.peak == 4 * 21


def test_a_backward_pass_counts():
    a, b = torch.ones(3, 5, requires_grad=True), torch.ones(5, 7, requires_grad=True)
    with counted() as operations:
        (a @ b).sum().backward()
    assert operations.products == 3 * 2 * 3 * 5 * 7


def test_views_and_allocations_move_nothing_and_what_is_expanded_is_read_once():
    x = torch.ones(1, 4)
    with counted() as operations:
        x.view(4, 1).T.unsqueeze(0)
        torch.empty(1000)
    assert (operations.moved, operations.launches) == (0, 0)
    with counted() as operations:
        x.expand(100, 4) + 1.0
    assert operations.moved == 4 * (4 + 400)


def test_the_peak_is_of_tensors_that_live_at_once():
    x = torch.ones(100)
    with counted() as operations:
        for _ in range(5):
            x + 1.0
        y = x + 1.0
        z = y + 1.0
    assert operations.peak == 800 and len(z) == 100
