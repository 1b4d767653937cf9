"""The hub: what its client is asked for, and what is said when it fails. Nothing here reaches a network."""

from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import DryRunError

from altq.experiment.sources import CorpusDescription
from altq.sources import hub

SPLITS = {"calibration": "train", "test": "validation[:2]"}


def failing(error):
    def call(*args, **kwargs):
        raise error

    return call


def test_model_download_is_pinned(tmp_path, monkeypatch):
    calls = []

    def snapshot(**wanted):
        calls.append(wanted)
        return [SimpleNamespace(will_download=True, file_size=5)] if wanted.get("dry_run") else str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    hub.fetch_files("org/name@abc", tmp_path)
    assert [call.get("dry_run", False) for call in calls] == [True, False]
    for call in calls:
        assert (call["repo_id"], call["revision"], call["local_dir"]) == ("org/name", "abc", tmp_path)
        assert "model*.safetensors" in call["allow_patterns"]
        assert not any("bin" in pattern for pattern in call["allow_patterns"])


def test_model_that_does_not_fit_is_not_downloaded(tmp_path, monkeypatch):
    calls = []

    def snapshot(**wanted):
        calls.append(wanted)
        return [SimpleNamespace(will_download=True, file_size=10**18)]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(OSError, match="no disk space"):
        hub.fetch_files("org/name@abc", tmp_path)
    assert len(calls) == 1


def test_offline_model(tmp_path, monkeypatch):
    error = DryRunError("no")
    error.__cause__ = ConnectionError("connection refused")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing(error))
    with pytest.raises(ConnectionError, match=r"hub model org/name@abc could not .*connection refused.*as `path:"):
        hub.fetch_config("org/name@abc", tmp_path)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ConnectionError("refused"), ConnectionError, "hub corpus a/b@main could not be fetched .* as `paths:"),
        (DatasetNotFoundError("a/b"), ValueError, "hub corpus a/b@main was not found"),
        (ValueError("BuilderConfig 'x' not found"), ValueError, "BuilderConfig 'x' not found"),
    ],
)
def test_corpus_that_cannot_be_fetched(monkeypatch, error, kind, message):
    monkeypatch.setattr(datasets, "load_dataset", failing(error))
    with pytest.raises(kind, match=message):
        hub.read_split(CorpusDescription(hub="a/b@main", splits=SPLITS), "train")


def test_corpus_files_are_chosen_by_split(tmp_path, monkeypatch):
    (tmp_path / "v.jsonl").write_text("".join(f'{{"text": "{text}", "url": "u"}}\n' for text in "xyz"))
    load_dataset = datasets.load_dataset

    def load(repository, subset, data_files, split, revision):
        assert (repository, revision) == ("a/b", "main")
        return load_dataset("json", data_files=data_files, split=split, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load)
    file = {"train": "missing.jsonl", "validation": str(tmp_path / "v.jsonl")}
    description = CorpusDescription(hub="a/b@main", files=file, splits=SPLITS)
    assert hub.read_split(description, "validation[:2]") == ["x", "y"]
    with pytest.raises(ValueError, match=r"no field 'extract' .it has: text, url.; correct text_field"):
        hub.read_split(description.model_copy(update={"text_field": "extract"}), "validation")
