"""Documents from outside become typed descriptions, or one message that names the file, the place and the remedy."""

from dataclasses import dataclass

import pytest

from altq.runtime.documents import Record, described, parse_yaml, read_described, read_yaml
from altq.runtime.files import read_json


class Point(Record):
    """What the tests read."""

    x: float
    name: str


@dataclass(frozen=True)
class Line:
    """Of points."""

    points: tuple[Point, ...]


def refusal(function, *arguments):
    with pytest.raises(ValueError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "pydantic" not in message and "\n" not in message and len(message) < 1500
    return message


@pytest.mark.parametrize("content", ["[]", "null", "3", '"x"', "[[]]", "true"])
def test_what_is_no_object_is_said_to_be_none(tmp_path, content):
    (tmp_path / "p.json").write_text(content)
    message = refusal(read_described, tmp_path / "p.json", Point, "measure again")
    assert message.startswith(f"{tmp_path}/p.json: is ") and message.endswith("not an object with keys; measure again")


def test_every_key_that_is_wrong_is_named(tmp_path):
    (tmp_path / "p.json").write_text('{"points": [{"x": 1}, {"x": "far", "name": 2}, {"x": NaN, "name": "n"}]}')
    message = refusal(read_described, tmp_path / "p.json", Line, "measure again")
    for place in ("points.0.name: Field required", "points.1.x: ", "points.1.name: ", "points.2.x: "):
        assert place in message


def test_a_long_list_of_problems_is_cut(tmp_path):
    message = refusal(described, {"points": [{}] * 1000}, Line, "p.json", "measure again")
    assert message.count("Field required") == 5 and "and 1995 more; measure again" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1, "a": 2}', "the key 'a' is given twice"),
        (b'{"b": {"a": 1, "a": 2}}', "the key 'a' is given twice"),
        (b"[" * 5000, "nested too deeply"),
        (b'{"a":' * 5000, "nested too deeply"),
        (b"9" * 5000, "4300 digits"),
        (b"", "Expecting value at line 1, column 1"),
        (b'{\n"a": 1,\n"b" 2}', "Expecting ':' delimiter at line 3, column 5"),
        (b'{\n"a": "\xff"}', "is not UTF-8: line 2 has the byte 0xff; save it as UTF-8"),
        (b'\xff\xfe{\x00"\x00', "is not UTF-8: line 1 has the byte 0xff"),
        (b'{"a": 1}\x00', "Extra data at line 1, column 9"),
        (b'{"a": "\\ud800"}', "half of a character"),
        (b'{"\\uDFFF": 1}', "half of a character"),
    ],
)
def test_json_that_cannot_be_read(tmp_path, content, said):
    (tmp_path / "a.json").write_bytes(content)
    message = refusal(read_json, tmp_path / "a.json")
    assert message.startswith(f"{tmp_path}/a.json ") and said in message


def test_a_byte_order_mark_is_accepted(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    (tmp_path / "pair.json").write_bytes(b'"\\ud83d\\ude00"')
    assert read_json(tmp_path / "pair.json") == "\U0001f600"
    assert read_json(tmp_path / "a.json") == read_yaml(tmp_path / "a.yaml") == {"a": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "the key 'a' is given twice at line 3, column 1"),
        ("x: {a: 1, a: 1}", "the key 'a' is given twice"),
        ("x:\n- {a: 1,\n   a: 1}", "the key 'a' is given twice at line 3, column 4"),
        ("[" * 5000, "nested too deeply"),
        ("{a: " * 3000, "nested too deeply"),
        ("- " * 3000, "nested too deeply"),
        ("a: \0", "the character U+0000 at position 3"),
        ("a: [", "expected the node content, but found '<stream end>' at line 1, column 5"),
        ("a: &a [*a]", "expands to more than"),
        ("--- a\n--- b", "expected a single document in the stream"),
        ("a: 2001-99-99", "month must be in 1..12"),
        ("!!bool x", "not what its form or tag says"),
        ("!!int ''", "not what its form or tag says"),
        ("!!timestamp x", "not what its form or tag says"),
        ("!!python/object:os.system x", "could not determine a constructor"),
        ("a: " + "9" * 5000, "4300 digits"),
        ("? [1]\n: 2", "unhashable"),
    ],
)
def test_yaml_that_cannot_be_read(content, said):
    message = refusal(parse_yaml, content, "mine.yaml")
    assert message.startswith("mine.yaml ") and said in message


def test_aliases_that_expand_to_more_than_memory_holds():
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{name}: &{name} [{', '.join(['*' + last] * 10)}]" for last, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    assert "expands to more than 1,000,000 values" in refusal(parse_yaml, "\n".join(lines), "mine.yaml")


def test_yaml_keeps_its_anchors_and_merges():
    text = "base: &base {steps: 8, seed: 0}\nmine: {<<: *base, steps: 9}\nlist: [*base, *base]\n"
    assert parse_yaml(text, "mine.yaml")["mine"] == {"steps": 9, "seed": 0}
    assert parse_yaml("", "mine.yaml") is None
    chain = "last: {<<: {<<: {a: 1, b: 2}, b: 3}, c: 4}\nbase: &x {<<: &y {a: 1}, a: 2}\nnext: {<<: *x, a: 3, z: *x}\n"
    assert parse_yaml(chain, "mine.yaml")["next"] == {"a": 3, "z": {"a": 2}}
