import json

import pytest

from altq.experiment.kinds import KINDS
from altq.selection.selection import Decision, Selection, fixed_selection


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_is_one_kind_everywhere(kind):
    selection = fixed_selection("m", 3, kind)
    assert selection.kinds == (kind,) * 6
    assert selection.policy == kind


def test_fixed_refuses_an_unknown_kind():
    with pytest.raises(ValueError, match="'rotary' at sublayer 0; known are identity"):
        fixed_selection("m", 3, "rotary")


def test_reads_back_what_it_wrote(tmp_path):
    layers = (Decision(0, "rotation", "why", score=1.5, z=-0.25), Decision(1, "affine", "why not"))
    selection = Selection("heuristic", "m", 1, layers, {"ffn": {"tau_high": None}}, {"seconds": 1})
    path = tmp_path / "heuristic.json"
    selection.write(path)
    assert Selection.read(path) == selection
    content = json.loads(path.read_text())
    assert content["kinds"] == ["rotation", "affine"]
    assert content["decisions"][1] == {
        "sublayer": 1, "block": 0, "half": "ffn", "kind": "affine", "score": None, "z": None, "reason": "why not",
    }  # fmt: skip


def test_length_and_order_are_checked():
    decisions = fixed_selection("m", 2, "affine").decisions
    with pytest.raises(ValueError, match="has 3 decisions; a model of 2 blocks has 4"):
        Selection("p", "m", 2, decisions[:3])
    with pytest.raises(ValueError, match="lists sublayer 3 at position 0"):
        Selection("p", "m", 2, decisions[::-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["kinds"].__setitem__(0, "rotation"), "`kinds` and the kinds of `decisions` disagree"),
        (lambda c: c["decisions"][0].__setitem__("kind", "spin"), "kind 'spin' at sublayer 0"),
        (lambda c: c.pop("kinds"), "kinds: Field required"),
        (lambda c: c["decisions"].pop(), "has 3 decisions"),
        (
            lambda c: c.__setitem__("layers", c.pop("decisions")),
            "`layers`, as older versions called `decisions`; rename",
        ),
    ],
)
def test_a_bad_file_is_named(tmp_path, change, message):
    path = tmp_path / "affine.json"
    fixed_selection("m", 2, "affine").write(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as caught:
        Selection.read(path)
    assert str(path) in str(caught.value)
