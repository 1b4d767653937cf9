import pytest

from altq.selection.agreement import agreement
from altq.selection.fixed import fixed_selection
from altq.selection.selection import Layer, Selection


def selection(*kinds, model="m"):
    return Selection("p", model, len(kinds) // 2, tuple(Layer(i, kind, "") for i, kind in enumerate(kinds)))


def test_decisions_halves_and_blocks_by_hand():
    first = selection("affine", "rotation", "affine", "affine", "rotation", "rotation")
    second = selection("affine", "rotation", "affine", "rotation", "affine", "rotation")
    found = agreement(first, second)
    assert found.by_half == {"attention": 2, "ffn": 2}
    assert (found.decisions, found.blocks, found.num_blocks) == (4, 1, 3)
    assert found.share == pytest.approx(4 / 6)
    assert agreement(second, first) == found


def test_itself_and_its_opposite():
    affine, rotation = fixed_selection("m", 4, "affine"), fixed_selection("m", 4, "rotation")
    assert (agreement(affine, affine).share, agreement(affine, affine).blocks) == (1.0, 4)
    assert (agreement(affine, rotation).share, agreement(affine, rotation).blocks) == (0.0, 0)


def test_other_models_cannot_be_compared():
    with pytest.raises(ValueError, match="'m' .1 blocks. and 'n' .1. cannot be compared"):
        agreement(selection("affine", "affine"), selection("affine", "affine", model="n"))
