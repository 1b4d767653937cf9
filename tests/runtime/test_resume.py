import json
import logging

import pytest

from altq.runtime.resume import Scratch, fingerprint_of, read_unit, write_unit


def test_a_fingerprint_is_of_the_content_and_not_of_its_order():
    assert fingerprint_of({"a": 1, "b": [2]}) == fingerprint_of({"b": [2], "a": 1})
    assert len({fingerprint_of(content) for content in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"})}) == 4


def test_a_unit_is_read_by_its_fingerprint_alone(tmp_path):
    write_unit(tmp_path / "unit.json", "one", {"loss": 0.1 + 0.2, "names": [None, True]})
    assert read_unit(tmp_path / "unit.json", "one") == {"loss": 0.1 + 0.2, "names": [None, True]}
    assert read_unit(tmp_path / "unit.json", "two") is None
    assert read_unit(tmp_path / "absent.json", "one") is None


UNREADABLE = [b"", b"[]", b"{}", b"null", b"3", b'"fingerprint"', b'{"content": 1}', b"\xff\xfe", b"[" * 100_000]


@pytest.mark.parametrize("content", UNREADABLE, ids=lambda content: repr(content[:12]))
def test_a_unit_that_cannot_be_read_is_begun_anew_with_a_line_in_the_log(tmp_path, caplog, content):
    (tmp_path / "unit.json").write_bytes(content)
    assert read_unit(tmp_path / "unit.json", "one") is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "unit.json cannot be read" in record.getMessage()


def filled(folder, count=3):
    scratch = Scratch(folder, "one")
    for value in range(count):
        scratch.add([value])
    return scratch


def test_it_goes_on_where_it_was_left(tmp_path, caplog):
    filled(tmp_path / "s")
    with caplog.at_level(logging.INFO):
        again = Scratch(tmp_path / "s", "one")
    assert again.units == [[0], [1], [2]] and "going on after 3 finished units" in caplog.text
    again.add(["next"])
    assert Scratch(tmp_path / "s", "one").units == [[0], [1], [2], ["next"]]


def test_another_fingerprint_begins_anew_and_gives_the_first_up(tmp_path):
    filled(tmp_path / "s")
    assert Scratch(tmp_path / "s", "two").units == []
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("number", range(3))
def test_a_unit_that_was_damaged_ends_what_is_finished(tmp_path, number):
    filled(tmp_path / "s")
    path = tmp_path / "s" / f"unit_{number:06d}.json"
    path.write_bytes(path.read_bytes()[:-5])
    again = Scratch(tmp_path / "s", "one")
    assert again.units == [[value] for value in range(number)]
    again.add(["next"])
    assert Scratch(tmp_path / "s", "one").units == [*again.units[:number], ["next"]]


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("other")])
def test_a_unit_counts_while_the_files_that_it_wrote_are_whole(tmp_path, caplog, damage):
    scratch = Scratch(tmp_path / "s", "one")
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("written")
        scratch.add(number, [tmp_path / f"{number}.txt"])
    assert Scratch(tmp_path / "s", "one").files == scratch.files and len(scratch.files) == 3
    damage(tmp_path / "1.txt")
    again = Scratch(tmp_path / "s", "one")
    assert again.units == [0] and again.files.keys() == {"0.txt"}
    assert "1.txt is not what was written" in caplog.text


def test_nothing_is_left_at_the_end(tmp_path):
    with filled(tmp_path / "s"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error", [ValueError, RuntimeError, ZeroDivisionError, KeyError, json.JSONDecodeError("", "", 0)]
)
def test_nothing_is_left_of_a_run_that_failed(tmp_path, error):
    with pytest.raises(Exception), filled(tmp_path / "s"):  # noqa: B017
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device"), MemoryError, SystemExit])
def test_a_stop_and_a_full_disk_leave_what_is_finished(tmp_path, stop):
    with pytest.raises(BaseException), filled(tmp_path / "s"):  # noqa: B017
        raise stop
    assert Scratch(tmp_path / "s", "one").units == [[0], [1], [2]]


def test_units_of_another_device_are_kept_named_and_said(tmp_path, caplog):
    filled(tmp_path / "s")
    with caplog.at_level(logging.WARNING):
        again = Scratch(tmp_path / "s", "one", "cuda")
    assert again.units == [[0], [1], [2]]
    assert "units are made on different devices (3 on cpu, 1 on cuda), which round differently" in caplog.text
    again.add(["next"])
    again.add(["last"])
    assert again.devices == Scratch(tmp_path / "s", "one", "cuda").devices == ["cpu", "cuda"]
    assert Scratch(tmp_path / "s", "one", "cpu").devices == ["cpu", "cuda", "cpu"]
    again.drop()
    assert again.devices == ["cuda"]


def test_one_device_is_nothing_to_be_warned_of(tmp_path, caplog):
    filled(tmp_path / "s")
    with caplog.at_level(logging.WARNING):
        assert Scratch(tmp_path / "s", "one").devices == ["cpu"]
    assert not caplog.records
