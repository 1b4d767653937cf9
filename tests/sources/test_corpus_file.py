"""Documents of local files in every form: what is read of them, and that what cannot be read is refused by name."""

import json

import pandas
import pytest

from altq.sources.corpus_file import Fields, read_documents

TALK = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "Há cá."}]


@pytest.mark.parametrize(
    ("name", "content", "documents"),
    [
        ("a.json", '{"A": "x", "B": {"text": "y"}}', [("A", "x"), ("B", "y")]),
        ("a.json", '[{"title": "A", "text": "x"}, {"text": "y"}, "z"]', [("A", "x"), ("y", "y"), ("z", "z")]),
        ("a.jsonl", '{"title": 3, "text": "x"}\n\n{"text": "y"}\n', [("3", "x"), ("y", "y")]),
        ("a.txt", "A\nx\n\n\n\nB\n y\n", [("A", "A\nx"), ("B", "B\n y")]),
        ("a.txt", "A\r\nx\r\n\r\nB", [("A", "A\nx"), ("B", "B")]),
    ],
)
def test_documents(tmp_path, name, content, documents):
    (tmp_path / name).write_bytes(content.encode())
    assert read_documents(tmp_path / name) == documents


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"A": {"extract": "x"}}', r"'A' has no text in the field 'text' \(fields: extract\)"),
        ("a.jsonl", '{"text": "x"}\n{"text": 3}', "row 1 has no text"),
        ("a.json", "[1]", "row 0 has no text in the field 'text' .a int."),
        ("a.json", "3", "holds a int"),
        ("a.jsonl", '{"text": "x"}\n{', "line 2 is no JSON.*correct or replace the file"),
    ],
)
def test_bad_documents_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_documents(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"A\nx\n\nB\n\xe9", "a.txt is not UTF-8: line 5 has the byte 0xe9; save it as UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xe9"}', "a.jsonl is not UTF-8: line 2 has the byte 0xe9"),
        ("a.json", b"[" * 5000, "nested too deeply"),
        ("a.jsonl", b'"x"\n' + b'{"a":' * 5000, "a.jsonl, line 2 is no JSON .*nested too deeply"),
        ("a.json", b'{"A": "x", "A": "y"}', "the key 'A' is given twice"),
        ("a.json", b'["x", "\\ud800"]', r"row 1 has '\\ud800', half of a character"),
        ("a.json", b'{"\\ud800": "x"}', r"half of a character"),
        ("a.json", b'[{"title": "\\udfff", "text": "x"}]', "row 0 has .*half of a character"),
        ("a.json", b"null", "holds a NoneType"),
        ("a.json", b"[[]]", "row 0 has no text in the field 'text' .a list."),
    ],
)
def test_what_cannot_be_read_names_file_and_row(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        read_documents(tmp_path / name)
    assert str(refused.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_tables_have_the_rows_of_json_lines(tmp_path, name):
    table = pandas.DataFrame({"title": ["A", "NA"], "text": ['x, "y"\n\nz', "null"]})
    table.to_csv(tmp_path / name, index=False) if name == "a.csv" else table.to_parquet(tmp_path / name)
    assert read_documents(tmp_path / name) == [("A", 'x, "y"\n\nz'), ("NA", "null")]
    assert read_documents(tmp_path / name, Fields(text="title", title="none")) == [("A", "A"), ("NA", "NA")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1 and no more", "is no Parquet that can be read .*; correct or replace the file"),
        ("a.csv", b"", "is no CSV that can be read .*; correct or replace the file"),
        ("a.csv", b'text\n"x', "is no CSV that can be read"),
        ("a.csv", b"text\n\xe9", "is no CSV that can be read .*0xe9"),
        ("a.csv", b"body\nx", r"row 0 has no text in the field 'text' \(fields: body\); correct text_field"),
    ],
)
def test_tables_that_cannot_be_read_are_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        read_documents(tmp_path / name)
    assert str(refused.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_conversations_are_kept_as_lines_of_json(tmp_path, name):
    if name == "a.jsonl":
        (tmp_path / name).write_text(json.dumps({"messages": TALK}))
    else:
        pandas.DataFrame({"messages": [TALK]}).to_parquet(tmp_path / name)
    ((title, text),) = read_documents(tmp_path / name, Fields(messages="messages"))
    assert json.loads(text) == TALK and title == text and "\n" not in text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, r"row 0 has no conversation in the field 'messages' \(fields: text\)"),
        ({"messages": []}, "row 0 has no conversation"),
        ({"messages": [{"role": "user"}]}, "row 0 has no conversation"),
        ({"messages": "user: x"}, "row 0 has no conversation"),
        ({"messages": [{"role": "user", "content": float("nan")}]}, "its conversation is not JSON"),
    ],
)
def test_what_is_no_conversation_is_refused_by_its_row(tmp_path, row, message):
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=message):
        read_documents(tmp_path / "a.jsonl", Fields(messages="messages"))


def test_plain_text_has_no_conversations(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match="has no field 'messages'; leave messages_field out"):
        read_documents(tmp_path / "a.txt", Fields(messages="messages"))
