import pytest

from altq.evaluation.journal import Journal


def test_it_goes_on_where_it_was_left(tmp_path):
    first = Journal(tmp_path / "a.jsonl", "one")
    first.add([1, 0.1 + 0.2])
    first.add({"b": [None, True]})
    assert Journal(tmp_path / "a.jsonl", "one").finished == [[1, 0.1 + 0.2], {"b": [None, True]}]


def test_another_fingerprint_begins_anew(tmp_path):
    Journal(tmp_path / "a.jsonl", "one").add(1)
    assert Journal(tmp_path / "a.jsonl", "two").finished == []
    assert Journal(tmp_path / "a.jsonl", "one").finished == []  # the first was given up


@pytest.mark.parametrize("kept", range(1, 40))
def test_a_line_that_was_cut_short_is_left_out(tmp_path, kept):
    journal = Journal(tmp_path / "a.jsonl", "one")
    for value in range(3):
        journal.add([value])
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:kept])
    again = Journal(tmp_path / "a.jsonl", "one")
    assert again.finished == [[value] for value in range(max(0, whole[:kept].count(b"\n") - 1))]
    again.add(["next"])
    assert Journal(tmp_path / "a.jsonl", "one").finished == again.finished


def test_nothing_is_left_when_all_is_written(tmp_path):
    journal = Journal(tmp_path / "a.jsonl", "one")
    journal.add(1)
    journal.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_finite_is_not_kept(tmp_path):
    journal = Journal(tmp_path / "journal", "one")
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.add({"log_likelihood": float("nan")})
    assert Journal(tmp_path / "journal", "one").finished == []
