"""A tokenizer is loaded by transformers' classes; what a folder brings as code is neither run nor asked about."""

import json
import re

import pytest

from altq.evaluation.harness import HarnessModel
from altq.experiment.sources import ModelDescription
from altq.models.tokenizer import load_tokenizer
from altq.sources.model import fetch_model
from altq.sources.tokens import test_tokens as draw_test_tokens


@pytest.fixture
def folder(tmp_path):
    """A model folder of a user's own, in it code that leaves a trace when it is run."""
    fetch_model(ModelDescription(made={"seed": 3}, num_blocks=2), tmp_path / "own")
    (tmp_path / "own" / "source.json").unlink()
    trace = tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w').close()\nclass OwnTokenizer: pass\n"
    for name in ("tokenization_own.py", "tokenizer_own.py"):
        (tmp_path / "own" / name).write_text(code)
    return tmp_path / "own"


def declare(folder, **keys):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


AUTO_MAP = {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]}


@pytest.mark.parametrize("auto_map", [AUTO_MAP, [None, "tokenization_own.OwnTokenizer"]])
@pytest.mark.parametrize("known", ["OwnTokenizer", None, 3])
def test_code_of_a_folder_is_refused_without_a_question(folder, tmp_path, monkeypatch, auto_map, known):
    declare(folder, auto_map=auto_map, tokenizer_class=known)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "test.txt").write_text("text")
    for use in (
        lambda: fetch_model(ModelDescription(path=str(folder), num_blocks=2), tmp_path / "fetched"),
        lambda: load_tokenizer(folder),
        lambda: HarnessModel.without_weights(folder),
        lambda: draw_test_tokens(folder, tmp_path / "corpus", tmp_path / "t.npy", num_windows=1, window_length=2),
    ):
        with pytest.raises(ValueError, match=r"tokenizer_config.json names code of its own") as refused:
            use()
        assert "trust_remote_code" not in str(refused.value)
    assert not (tmp_path / "trace").exists() and not (tmp_path / "fetched").exists()


def test_a_class_of_transformers_is_loaded_whatever_the_map_says(folder, tmp_path):
    declare(folder, auto_map=AUTO_MAP, tokenizer_class="PreTrainedTokenizerFast")
    assert load_tokenizer(folder)("a b")["input_ids"]
    assert not (tmp_path / "trace").exists()


def test_code_is_not_copied(folder, tmp_path):
    fetch_model(ModelDescription(path=str(folder), num_blocks=2), tmp_path / "fetched")
    assert not list((tmp_path / "fetched").glob("*.py"))


@pytest.mark.parametrize("text", ["[]", "{", "null", "[" * 5000])
def test_a_description_that_is_none_is_one_message(folder, text):
    (folder / "tokenizer_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"tokenizer_config.json.*add the tokenizer"):
        load_tokenizer(folder)


def test_a_fetch_names_the_users_own_file_and_no_hidden_one(folder, tmp_path):
    (folder / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ValueError, match=re.escape(str(folder / "tokenizer_config.json"))) as refused:
        fetch_model(ModelDescription(path=str(folder), num_blocks=2), tmp_path / "fetched")
    assert ".partial" not in str(refused.value)
