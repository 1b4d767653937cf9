"""Looks that are put off are taken at the end, in order, in one wait."""

import pytest
import torch

from altq.runtime.looks import look, looks_put_off


@pytest.fixture
def seen():
    return []


def test_a_look_is_taken_at_once_outside(seen):
    look(torch.tensor([1.5, 2.0]), seen.append)
    assert seen == [[1.5, 2.0]]


def test_looks_are_put_off_to_the_end_and_keep_order_type_and_shape(seen):
    with looks_put_off():
        look(torch.tensor(0.1), seen.append)
        look(torch.tensor([[3, 4]], dtype=torch.int32), seen.append)
        look(torch.zeros(0), seen.append)
        assert seen == []
    assert seen == [[torch.tensor(0.1).item()], [3.0, 4.0], []]
    look(torch.tensor(2.0), seen.append)
    assert seen[-1] == [2.0]


def test_the_first_that_is_wrong_raises_and_the_rest_are_not_looked_at(seen):
    def refuse(values):
        raise ValueError(f"saw {values}")

    with pytest.raises(ValueError, match=r"saw \[nan\]"), looks_put_off():
        look(torch.tensor(1.0), seen.append)
        look(torch.tensor(float("nan")), refuse)
        look(torch.tensor(2.0), seen.append)
    assert seen == [[1.0]]


def test_work_that_raises_is_not_looked_at(seen):
    with pytest.raises(KeyError), looks_put_off():
        look(torch.tensor(1.0), seen.append)
        raise KeyError
    look(torch.tensor(2.0), seen.append)
    assert seen == [[2.0]]


def test_on_the_meta_device_there_is_nothing_to_see(seen):
    look(torch.zeros(2, device="meta"), seen.append)
    with looks_put_off():
        look(torch.zeros(2, device="meta"), seen.append)
    assert seen == []
