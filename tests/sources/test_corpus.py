"""Corpora: documents, the split by title, and that a fetch is all or nothing."""

import hashlib
import json
import pydoc_data.topics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altq.experiment.sources import CorpusDescription
from altq.runtime import files
from altq.sources import corpus, hub
from altq.sources.corpus import fetch_corpus, split_by_title
from altq.sources.corpus_file import read_documents

DOCUMENTS = st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=8), st.text(max_size=4)), max_size=30)


@given(DOCUMENTS, st.floats(0.05, 0.95), st.randoms())
def test_split_does_not_depend_on_the_order(documents, share, random):
    shuffled = random.sample(documents, len(documents))
    assert split_by_title(documents, share) == split_by_title(shuffled, share)


@given(DOCUMENTS, st.floats(0.05, 0.9))
def test_split_is_a_partition_that_only_grows(documents, share):
    smaller, larger = split_by_title(documents, share), split_by_title(documents, share + 0.05)
    assert sorted(smaller["calibration"] + smaller["test"]) == sorted(text for _, text in documents)
    assert larger["test"][: len(smaller["test"])] == smaller["test"]


def test_split_by_hand():
    first = {title: hashlib.sha256(title.encode()).hexdigest()[:2] for title in ("b", "d")}
    assert first == {"b": "3e", "d": "18"}  # 0.24 and 0.09
    assert split_by_title([("b", "B"), ("d", "D")], 0.2) == {"calibration": ["B"], "test": ["D"]}
    assert split_by_title([("b", "B"), ("d", "D")], 0.5) == {"calibration": [], "test": ["D", "B"]}


def test_share_is_kept():
    documents = [(f"title {number}", "") for number in range(10_000)]
    assert len(split_by_title(documents, 0.2)["test"]) == pytest.approx(2000, abs=160)  # 4 standard deviations


def test_module_corpus(tmp_path):
    description = CorpusDescription(module="pydoc_data.topics")
    fetch_corpus(description, tmp_path / "pydoc")
    provenance = files.read_json(tmp_path / "pydoc" / "source.json")
    assert provenance["source"]["module"] == "pydoc_data.topics"
    num_documents = {name: split["documents"] for name, split in provenance["splits"].items()}
    assert sum(num_documents.values()) == len(pydoc_data.topics.topics)
    for name in ("calibration", "test"):
        assert files.sha256(tmp_path / "pydoc" / f"{name}.txt") == provenance["splits"][name]["sha256"]
    first = {path.name: path.read_bytes() for path in (tmp_path / "pydoc").iterdir()}
    fetch_corpus(description, tmp_path / "pydoc")
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "pydoc").iterdir()}


def test_separate_files_are_taken_verbatim(tmp_path):
    (tmp_path / "train.txt").write_bytes(b" = A = \n\n \nx\r\n")
    (tmp_path / "test.jsonl").write_text('{"text": "y"}\n{"text": "z"}\n')
    paths = {"calibration": str(tmp_path / "train.txt"), "test": str(tmp_path / "test.jsonl")}
    fetch_corpus(CorpusDescription(paths=paths, separator=" "), tmp_path / "c")
    assert (tmp_path / "c" / "calibration.txt").read_bytes() == b" = A = \n\n \nx\r\n"
    assert (tmp_path / "c" / "test.txt").read_bytes() == b"y z"


def test_hub_rows_are_joined_as_they_are(tmp_path, monkeypatch):
    rows = {"train": ["", " = A = \n", "x\n"], "test": ["y\n", ""]}
    monkeypatch.setattr(hub, "read_split", lambda description, split: rows[split])
    splits = {"calibration": "train", "test": "test"}
    fetch_corpus(CorpusDescription(hub="a/b@main", splits=splits), tmp_path / "c")
    assert (tmp_path / "c" / "calibration.txt").read_text() == "\n\n = A = \n\n\nx\n"
    assert (tmp_path / "c" / "test.txt").read_text() == "y\n\n\n"


def test_empty_split_is_refused(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"b": "x"}))
    with pytest.raises(ValueError, match=r"test split is empty \(documents: calibration: 1, test: 0\); change"):
        fetch_corpus(CorpusDescription(path=str(tmp_path / "a.json")), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_wrong_hash_and_unknown_module_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=f"sha256 {hashlib.sha256(b'x').hexdigest()}, but the configuration says 000"):
        fetch_corpus(CorpusDescription(path=str(tmp_path / "a.txt"), sha256="0" * 64), tmp_path / "c")
    with pytest.raises(ValueError, match="no_such_module cannot be read"):
        fetch_corpus(CorpusDescription(module="no_such_module"), tmp_path / "c")
    with pytest.raises(ValueError, match="module that holds a dict parser"):
        fetch_corpus(CorpusDescription(module="email.parser"), tmp_path / "c")


def test_interrupted_fetch_looks_incomplete(tmp_path, monkeypatch):
    description = CorpusDescription(module="pydoc_data.topics")
    fetch_corpus(description, tmp_path / "c")
    monkeypatch.setattr(corpus.files, "write_json", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fetch_corpus(description, tmp_path / "c")
    assert not (tmp_path / "c" / "source.json").exists()


@pytest.mark.parametrize(("name", "content"), [("a.txt", b"x"), ("a.json", b'["x"]'), ("a.jsonl", b'{"text": "x"}')])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, name, content):
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content)
    assert read_documents(tmp_path / name) == [("x", "x")]
    paths = dict.fromkeys(("calibration", "test"), str(tmp_path / name))
    fetch_corpus(CorpusDescription(paths=paths), tmp_path / "c")
    assert (tmp_path / "c" / "test.txt").read_bytes() == b"x"


def test_a_module_that_fails_is_one_message(tmp_path, monkeypatch):
    (tmp_path / "failing_module.py").write_text("raise RuntimeError('no')")
    (tmp_path / "numbered_module.py").write_text("numbered_module = {1: 'x'}")
    monkeypatch.syspath_prepend(tmp_path)
    for name, message in (("failing_module", "cannot be read .no."), ("numbered_module", "is not a dict of title")):
        with pytest.raises(ValueError, match=message):
            fetch_corpus(CorpusDescription(module=name), tmp_path / "c")
