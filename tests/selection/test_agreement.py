import pytest

from altq.selection.agreement import agreement
from altq.selection.selection import Decision, Selection, fixed_selection


def selection(*kinds, model="m"):
    return Selection("p", model, len(kinds) // 2, tuple(Decision(i, kind, "") for i, kind in enumerate(kinds)))


def test_decisions_halves_and_blocks_by_hand():
    first = selection("affine", "rotation", "affine", "affine", "rotation", "rotation")
    second = selection("affine", "rotation", "affine", "rotation", "affine", "rotation")
    found = agreement(first, second)
    assert found.by_half == {"attention": 2, "ffn": 2}
    assert (found.decisions, found.blocks, found.num_blocks) == (4, 1, 3)
    # Attention: 2 of 3 affine against all; ffn: 2 of 3 rotation against all.
    assert found.by_chance == pytest.approx((2 * 3 + 1 * 0) / 3 + (2 * 3 + 1 * 0) / 3)
    assert agreement(second, first) == found


def test_itself_and_its_opposite():
    affine, rotation = fixed_selection("m", 4, "affine"), fixed_selection("m", 4, "rotation")
    same, opposite = agreement(affine, affine), agreement(affine, rotation)
    assert (same.decisions, same.blocks, same.by_chance) == (8, 4, 8.0)
    assert (opposite.decisions, opposite.blocks, opposite.by_chance) == (0, 0, 0.0)


def test_other_models_cannot_be_compared():
    with pytest.raises(ValueError, match=r"'m' .1 blocks. and 'n' .1. cannot be compared"):
        agreement(selection("affine", "affine"), selection("affine", "affine", model="n"))
