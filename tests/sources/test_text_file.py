"""A text as people give it: what kind it is, how long, and that what cannot serve is refused by its name."""

import json

import pytest

from altq.sources.text_file import describe_text


@pytest.fixture
def notes(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("\n\n".join(f"title {number}\n{'some words ' * 20}" for number in range(200)))
    return path


def test_plain_text_is_measured(notes):
    text = describe_text(notes)
    assert text.description.path == str(notes) and text.description.messages_field is None
    assert sum(text.sizes.values()) == pytest.approx(notes.stat().st_size, rel=0.01)
    assert 0.1 < text.sizes["test"] / sum(text.sizes.values()) < 0.3


def test_windows_are_as_many_as_there_surely_are(notes):
    text = describe_text(notes)
    assert text.test_windows(4, 64) == 4
    assert text.test_windows(1000, 64) == text.sizes["test"] // (6 * 64)
    with pytest.raises(ValueError, match=r"notes.txt is too short: .* bytes to calibrate on .* a shorter --window-len"):
        text.test_windows(4, 10_000)


def test_conversations_are_known_by_their_field(tmp_path):
    path = tmp_path / "chats.jsonl"
    rows = [{"messages": [{"role": "user", "content": f"{n}"}], "text": f"{n} alone"} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert describe_text(path).description.messages_field == "messages"
    plain = describe_text(path, "text").description
    assert plain.messages_field is None and plain.text_field == "text"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pdf", b"%PDF", r"a.pdf' cannot be read as a corpus; give a file that ends in .txt, .jsonl"),
        ("a.txt", b"caf\xe9", "a.txt is not UTF-8: line 1 has the byte 0xe9"),
        ("a.jsonl", b"{", "a.jsonl, line 1 is no JSON"),
        ("a.parquet", b"PAR1", "a.parquet is no Parquet that can be read"),
        ("a.csv", b"body\nx", r"a.csv, row 0 has no text in the field 'text' \(fields: body\)"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        describe_text(tmp_path / name)


def test_a_text_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--text path: local path .*absent.txt' does not exist"):
        describe_text(tmp_path / "absent.txt")
