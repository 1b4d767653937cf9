"""`altq compare`: what cannot be compared is refused by one message."""

import shutil

import pytest

from altq.cli import main
from altq.experiment.sources import ModelDescription
from altq.sources.model import fetch_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "mine"
    fetch_model(ModelDescription(made={"seed": 3}, num_blocks=2), folder)
    return folder


@pytest.fixture
def refused(capsys, tmp_path):
    """The message with which `altq compare` of two folders fails."""
    text = tmp_path / "notes.txt"
    text.write_text("\n\n".join(f"title {number}\n{'some words ' * 20}" for number in range(200)))

    def compare(*words):
        assert main(["compare", *map(str, words), "--text", str(text), "--window-length", "32", "--windows", "2"]) == 1
        error = capsys.readouterr().err
        assert error.count("altq: ") == 1 and "Traceback" not in error
        return error

    return compare


def test_other_tokenizers_are_refused(model, refused, tmp_path):
    fetch_model(ModelDescription(made={"seed": 3, "vocab_size": 400}, num_blocks=2), tmp_path / "other")
    error = refused(model, tmp_path / "other")
    assert "have different tokenizers, so that neither their perplexities" in error


def test_what_is_no_model_is_refused(model, refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty is not a model folder" in refused(model, tmp_path / "empty")


def test_a_model_without_tokenizer_is_refused(model, refused, tmp_path):
    folder = shutil.copytree(model, tmp_path / "mine")
    (folder / "tokenizer.json").unlink()
    assert "holds no tokenizer.json" in refused(folder, model)
