import json

import pytest

from altq.selection.scores import Scores, best_selection


def scores(*values, lower=True, quantity="error"):
    return Scores("m", quantity, lower, tuple(values))


def test_the_lower_error_is_chosen_and_the_higher_weight():
    values = {"affine": 0.25, "rotation": 0.5}, {"affine": 3.0, "rotation": 2.0}
    assert best_selection("oracle", scores(*values)).kinds == ("affine", "rotation")
    chosen = best_selection("learned", scores(*values, lower=False, quantity="pi"))
    assert chosen.kinds == ("rotation", "affine")
    assert (chosen.policy, chosen.model, chosen.num_blocks) == ("learned", "m", 1)
    assert chosen.decisions[0].score == 0.5
    assert chosen.decisions[0].reason == "pi: rotation 0.5, affine 0.25"


def test_any_kinds_may_compete():
    values = [{"identity": 3.0, "balance": 1.0, "hadamard": 2.0}, {"identity": 0.1, "balance": 1.0, "hadamard": 2.0}]
    assert best_selection("oracle", scores(*values)).kinds == ("balance", "identity")


def test_a_tie_is_an_error_and_a_tie_among_losers_is_not():
    with pytest.raises(ValueError, match=r"cannot choose at sublayer 1: a.* and .* both have a pi of 0.5"):
        best_selection(
            "learned",
            scores({"affine": 1.0, "rotation": 0.0}, {"affine": 0.5, "rotation": 0.5}, lower=False, quantity="pi"),
        )
    with pytest.raises(ValueError, match="cannot choose at sublayer 0"):
        best_selection(
            "predicted", scores({"affine": 10.0949327677, "rotation": 10.0949327649}, {"affine": 1.0, "rotation": 2.0})
        )
    values = {"affine": 1.0, "rotation": 2.0, "balance": 2.0}
    assert best_selection("oracle", scores(values, values)).kinds == ("affine", "affine")


def test_where_no_kind_has_an_error_the_first_is_as_good_as_any():
    silent, other = {"affine": 0.0, "rotation": 0.0}, {"affine": 2.0, "rotation": 1.0}
    chosen = best_selection("oracle", scores(silent, other))
    assert chosen.kinds == ("affine", "rotation") and chosen.decisions[0].reason == "error: 0 for every kind"
    with pytest.raises(ValueError, match="cannot choose at sublayer 0"):
        best_selection("learned", scores(silent, other, lower=False))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "has 0 sublayers"),
        ([{"affine": 1.0}], "has 1 sublayers"),
        ([{"affine": 1.0, "rotation": 2.0}, {"affine": 1.0}], "sublayer 1 has affine, not affine, rotation"),
        ([{"affine": 1.0, "rotation": float("nan")}] * 2, "is nan for rotation at sublayer 0"),
        ([{"affine": float("inf"), "rotation": 1.0}] * 2, "is inf for affine"),
    ],
)
def test_incomplete_and_infinite_scores_are_refused(values, said):
    with pytest.raises(ValueError, match=said):
        scores(*values)


def test_the_file_reads_back_with_kinds_in_order(tmp_path):
    written = Scores("m", "error", True, ({"rotation": 1.5, "affine": 2.0}, {"rotation": 0.1, "affine": 0.2}), {"a": 1})
    written.write(tmp_path / "scores.json")
    read = Scores.read(tmp_path / "scores.json")
    assert read == written and read.kinds == ("rotation", "affine")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("quantity"), "quantity: Field required; measure again"),
        (lambda c: c.pop("values"), "values: Field required"),
        (lambda c: c.update(more=1), "more: unknown key"),
        (lambda c: c["values"].pop(), "has 1 sublayers"),
    ],
)
def test_a_bad_file_is_named(tmp_path, change, said):
    path = tmp_path / "scores.json"
    scores({"affine": 1.0, "rotation": 2.0}, {"affine": 1.0, "rotation": 2.0}).write(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=said) as caught:
        Scores.read(path)
    assert str(path) in str(caught.value)
