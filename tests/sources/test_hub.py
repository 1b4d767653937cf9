"""The hub: what its client is asked for, and what is said when it fails. Nothing here reaches a network."""

import json
import shutil
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import DryRunError

from altq.experiment.sources import CorpusDescription, TaskDescription
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
    with pytest.raises(ConnectionError, match=r"hub model org/name@abc could not .*connection refused.*that .`path:"):
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
    monkeypatch.setattr(datasets, "load_dataset_builder", failing(error))
    with pytest.raises(kind, match=message):
        hub.read_split(CorpusDescription(hub="a/b@main", splits=SPLITS), "train")


def test_corpus_files_are_chosen_by_split(tmp_path, monkeypatch):
    (tmp_path / "v.jsonl").write_text("".join(f'{{"text": "{text}", "url": "u"}}\n' for text in "xyz"))
    load_builder = datasets.load_dataset_builder

    def load(address, subset, data_files, revision):
        assert (address, revision) == ("hf://datasets/a/b", "main")
        files = {name: str(tmp_path / file) for name, file in data_files.items()}
        return load_builder("json", data_files=files, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    file = {"train": "missing.jsonl", "validation": "v.jsonl"}
    description = CorpusDescription(hub="a/b@main", files=file, splits=SPLITS)
    assert hub.read_split(description, "validation[:2]") == ["x", "y"]
    with pytest.raises(ValueError, match=r"no field 'extract' .it has: text, url.; correct text_field"):
        hub.read_split(description.model_copy(update={"text_field": "extract"}), "validation")


def test_a_row_of_the_hub_without_text_is_named(tmp_path, monkeypatch):
    (tmp_path / "v.jsonl").write_text('{"text": "x"}\n{"text": null}\n')
    load_builder = datasets.load_dataset_builder

    def load(address, subset, data_files, revision):
        return load_builder("json", data_files={"train": str(tmp_path / "v.jsonl")}, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    with pytest.raises(ValueError, match="a/b@main, split train, row 1: its text is a NoneType"):
        hub.read_split(CorpusDescription(hub="a/b@main", splits=SPLITS), "train")


@pytest.fixture
def beside_the_run(tmp_path, monkeypatch):
    """A local folder that is called like a data set of the hub, which is out of reach."""
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "org" / "name" / "train.jsonl").write_text('{"text": "local"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("name", ["org/name", "org/name.jsonl"])
def test_a_local_folder_is_not_taken_for_a_corpus_of_the_hub(beside_the_run, name):
    (beside_the_run / "org" / "name.jsonl").write_text('{"text": "local"}\n')
    description = CorpusDescription(hub=f"{name}@main", splits={"calibration": "train", "test": "train"})
    with pytest.raises(ConnectionError, match="could not be fetched"):
        hub.read_split(description, "train")


def test_a_local_folder_is_not_taken_for_a_task_of_the_hub(beside_the_run):
    with pytest.raises(ConnectionError, match="could not be fetched"):
        hub.read_items(TaskDescription(hub="org/name@main"), "train")


@pytest.fixture
def cached(beside_the_run):
    """Another revision of the data set in the library's cache."""
    source = str(beside_the_run / "org" / "name" / "train.jsonl")
    builder = datasets.load_dataset_builder("json", data_files=source, cache_dir=str(beside_the_run / "made"))
    builder.download_and_prepare()
    prepared = next((beside_the_run / "made").glob("*/*/*/*"))
    folder = beside_the_run / "cache" / "org___name" / "default" / "0.0.0" / ("a" * 40)
    shutil.copytree(prepared, folder)
    description = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(description | {"config_name": "default"}))
    for path in folder.glob("json-*"):
        path.rename(folder / path.name.replace("json-", "name-"))
    return beside_the_run


def test_the_cache_stands_in_for_the_hub_with_the_same_revision_alone(cached):
    def read(revision):
        return hub.read_split(CorpusDescription(hub=f"org/name@{revision}", splits=SPLITS), "train")

    with pytest.raises(ConnectionError, match=f"the cache has revision {'a' * 40}, not main"):
        read("main")
    with pytest.raises(ConnectionError, match=f"the cache has revision {'a' * 40}, not {'b' * 40}"):
        read("b" * 40)
    assert read("a" * 40) == ["local"]
