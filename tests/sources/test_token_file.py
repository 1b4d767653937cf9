"""Tokens are read only where they are those that were drawn, and of the model's vocabulary."""

import json

import numpy as np
import pytest

from altq.runtime.files import sha256
from altq.sources.token_file import read_tokens

TOKENS = np.arange(16, dtype=np.int32).reshape(2, 8)


def write(folder, tokens=TOKENS, **changes):
    """An array, what says how it was drawn, and a model of 16 tokens."""
    path = folder / "test.npy"
    np.save(path, tokens)
    drawn = {"model": "m", "corpus": "c", "num_windows": 2, "window_length": 8, "tokens_sha256": sha256(path)}
    path.with_suffix(".json").write_text(json.dumps(drawn | changes))
    (folder / "config.json").write_text('{"vocab_size": 16}')
    return path


def test_they_read_back(tmp_path):
    tokens, drawn = read_tokens(write(tmp_path), tmp_path)
    assert np.array_equal(tokens, TOKENS) and (drawn.model, drawn.corpus) == ("m", "c")


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (TOKENS + 1, "has tokens from 1 to 16, but .* has 16"),
        (TOKENS - 1, "has tokens from -1 to 14"),
        (TOKENS.astype(np.int64), "is an array of int64 .2, 8., but .* says int32"),
        (TOKENS.astype(np.float32), "is an array of float32"),
        (TOKENS[0], "is an array of int32 .8,., but"),
        (TOKENS[:, :4], "is an array of int32 .2, 4., but"),
        (np.array([{}]), "is no array of tokens"),
    ],
)
def test_an_array_of_something_else_is_refused(tmp_path, tokens, said):
    with pytest.raises(ValueError, match=f"test.npy {said}.*; draw the tokens again"):
        read_tokens(write(tmp_path, tokens), tmp_path)


def test_an_array_that_changed_is_refused(tmp_path):
    path = write(tmp_path)
    np.save(path, TOKENS[::-1])
    with pytest.raises(ValueError, match=r"test.npy has another sha256 than .*test.json says; draw the tokens again"):
        read_tokens(path, tmp_path)


def test_a_note_that_lacks_something_is_refused(tmp_path):
    path = write(tmp_path, model=3)
    with pytest.raises(ValueError, match=r"test.json: model: .*; draw the tokens again"):
        read_tokens(path, tmp_path)


@pytest.mark.parametrize("config", ["[]", "{}", '{"vocab_size": "many"}'])
def test_a_model_without_a_vocabulary_is_named(tmp_path, config):
    path = write(tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"config.json: .*; fetch the model again"):
        read_tokens(path, tmp_path)
