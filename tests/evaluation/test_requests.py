"""Drawing items, their labels, and the file of requests."""

import json
from collections import Counter

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from altq.evaluation.requests import TaskRequests, draw_items, make_requests
from altq.experiment.sources import TaskDescription
from altq.sources.made_items import make_items
from altq.sources.task import fetch_task


def rng(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 5))
def test_each_part_is_drawn_in_proportion(parts, limit, seed):
    drawn = draw_items(parts, limit, rng(seed))
    assert drawn == sorted(set(drawn)) == draw_items(parts, limit, rng(seed))
    assert len(drawn) == min(limit, len(parts))
    counts, total = Counter(parts[row] for row in drawn), Counter(parts)
    for name in total:
        assert abs(counts[name] - len(drawn) * total[name] / len(parts)) < 1


def test_the_first_rows_are_not_preferred():
    parts = ["activitynet"] * 300 + ["wikihow"] * 700
    drawn = draw_items(parts, 100, rng())
    assert sum(row < 300 for row in drawn) == 30
    assert 400 < np.mean(drawn) < 600 and draw_items(parts, 100, rng(1)) != drawn


def fetched(tmp_path, name, rows):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fetch_task(name, TaskDescription(path=str(tmp_path / "rows.jsonl")), tmp_path / name)
    return tmp_path / name


def test_the_file_reads_back(tmp_path, made_model):
    made = make_requests("hellaswag", fetched(tmp_path, "hellaswag", make_items("hellaswag", 20)), made_model, 6, rng())
    made.write(tmp_path / "requests.parquet")
    assert TaskRequests.read(tmp_path / "requests.parquet") == made
    assert len(made.items) == 6 and len(made.requests) == 24 and made.num_available == 20
    assert sum(item % 2 for item in made.items) == 3  # activitynet and wikihow in turn
    assert made.task_version == 1.0 and not made.truncated_items
    (tmp_path / "requests.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match=r"cannot be read .* make them again"):
        TaskRequests.read(tmp_path / "requests.parquet")


def test_items_keep_their_rows(tmp_path, made_model):
    folder = fetched(tmp_path, "piqa", make_items("piqa", 12))
    all_of_them = make_requests("piqa", folder, made_model, None, rng())
    some = make_requests("piqa", folder, made_model, 5, rng())
    assert all_of_them.items == list(range(12)) and len(some.items) == 5
    assert set(map(repr, some.requests)) <= set(map(repr, all_of_them.requests))


def test_what_is_longer_than_the_context_is_counted(tmp_path, made_model):
    rows = make_items("lambada_openai", 4)
    rows[2]["text"] = "a list of the class " * 800
    made = make_requests("lambada_openai", fetched(tmp_path, "lambada_openai", rows), made_model, None, rng())
    assert made.truncated_items == {2}


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("piqa", "label", 2, "its label 2 is none of its 2 choices"),
        ("piqa", "label", -1, "its label -1 is none of its 2 choices"),
        ("hellaswag", "label", "4", "its label 4 is none of its 4 choices"),
        ("hellaswag", "label", "", "ValueError"),
        ("winogrande", "answer", "3", "KeyError: '3'"),
        ("winogrande", "sentence", "no blank here", "ValueError: substring not found"),
        ("arc_easy", "answerKey", "F", "ValueError"),
    ],
)
def test_an_item_without_a_right_answer_is_refused(tmp_path, made_model, name, field, value, message):
    rows = make_items(name, 5)
    rows[3][field] = value
    folder = fetched(tmp_path, name, rows)
    with pytest.raises(ValueError, match=message) as refused:
        make_requests(name, folder, made_model, None, rng())
    assert "correct the source of this task" in str(refused.value)


def test_a_set_without_its_parts_is_refused(tmp_path, made_model):
    rows = [{k: v for k, v in row.items() if k != "source_id"} for row in make_items("hellaswag", 5)]
    with pytest.raises(ValueError, match=r"row 0.source_id: Field required"):
        fetched(tmp_path, "hellaswag", rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "items.parquet")
    with pytest.raises(ValueError, match="have no field 'source_id'"):
        make_requests("hellaswag", tmp_path, made_model, 3, rng())


def test_the_file_says_what_each_request_asks(tmp_path, made_model):
    folder = fetched(tmp_path, "lambada_openai", make_items("lambada_openai", 3))
    made = make_requests("lambada_openai", folder, made_model, None, rng())
    made.write(tmp_path / "requests.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "requests.parquet").to_pylist()
    assert [row["item"] for row in table] == [0, 1, 2]
    assert all(row["context"] and row["continuation"] for row in table)
