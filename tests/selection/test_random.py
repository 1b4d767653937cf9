from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altq.experiment.kinds import KINDS
from altq.selection.random import best_of, random_selection


@given(
    st.integers(1, 40),
    st.lists(st.sampled_from(KINDS), min_size=2, max_size=4, unique=True),
    st.integers(0, 2**32),
)
def test_every_candidate_has_its_share_of_each_half(num_blocks, candidates, seed):
    kinds = random_selection("m", num_blocks, candidates=candidates, seed=seed).kinds
    for half in (kinds[::2], kinds[1::2]):
        counts = Counter(half)
        assert set(counts) <= set(candidates)
        assert max(counts.values()) - min(counts[kind] for kind in candidates) <= 1


def test_half_and_half_for_two_candidates():
    selection = random_selection("m", 30, candidates=["affine", "rotation"], seed=7)
    assert Counter(selection.kinds[::2]) == Counter(selection.kinds[1::2]) == {"affine": 15, "rotation": 15}
    assert selection.policy == "random7"


def test_the_seed_decides():
    draw = [random_selection("m", 30, candidates=["affine", "rotation"], seed=seed).kinds for seed in range(20)]
    assert len(set(draw)) == 20
    assert draw[3] == random_selection("m", 30, candidates=["affine", "rotation"], seed=3).kinds
    # The two halves are drawn apart, and neither is the candidates in turn.
    assert draw[0][::2] != draw[0][1::2]


def result(method, corpus, perplexity):
    return {"method": method, "corpus": corpus, "perplexity": perplexity}


def test_the_best_has_the_lowest_geometric_mean():
    # 2 * 18 < 6 * 7, though its arithmetic mean is higher.
    results = [
        result("random0", "a", 6),
        result("random0", "b", 7),
        result("random1", "a", 2),
        result("random1", "b", 18),
    ]
    assert best_of(results) == "random1"
    assert best_of(reversed(results)) == "random1"


def test_the_best_is_of_the_same_texts():
    with pytest.raises(ValueError, match="random0, random1 are not over the same texts"):
        best_of([result("random0", "a", 6), result("random1", "b", 2)])
