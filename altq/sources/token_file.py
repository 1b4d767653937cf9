"""Files of token windows as `altq tokens` writes them: an array, and its record beside it."""

import tokenize
from pathlib import Path

import numpy as np
from pydantic import Field

from altq.experiment.windows import Bos
from altq.runtime.documents import Record, read_described
from altq.runtime.files import sha256

REMEDY = "draw the tokens again"


class TokenRecord(Record):
    """Record of an array of tokens: their origin, shape and hash."""

    model: str
    corpus: str
    num_windows: int = Field(ge=1)
    window_length: int = Field(ge=1)
    tokens_sha256: str
    bos: Bos = "never"  # as in all records of versions that had no such option


class _Vocabulary(Record):
    """The key of a model's config.json that is read."""

    vocab_size: int


def read_tokens(path: str | Path, model_folder: str | Path) -> tuple[np.ndarray, TokenRecord]:
    """Read int32 tokens [windows, length] and their record; ValueError for tokens that differ from the record.

    model_folder: the model or checkpoint that the tokens are for; they must lie in its vocabulary.
    """
    path = Path(path)
    note = path.with_suffix(".json")
    record = read_described(note, TokenRecord, REMEDY)
    if sha256(path) != record.tokens_sha256:
        raise ValueError(f"{path} has another sha256 than {note} says; {REMEDY}")
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    # Errors of numpy's parser of headers, and of mapping a file that is shorter than its header claims.
    except (ValueError, EOFError, OSError, OverflowError, SyntaxError, TypeError, tokenize.TokenError) as error:
        raise ValueError(f"{path} is no array of tokens ({error}); {REMEDY}") from error
    shape = (record.num_windows, record.window_length)
    if mapped.shape != shape or mapped.dtype != np.int32:
        raise ValueError(
            f"{path} is an array of {mapped.dtype} {mapped.shape}, but {note} says int32 {shape}; {REMEDY}"
        )
    tokens = np.array(mapped)
    vocab_size = read_described(Path(model_folder) / "config.json", _Vocabulary, "fetch the model again").vocab_size
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise ValueError(
            f"{path} has tokens from {tokens.min()} to {tokens.max()}, but {model_folder} has {vocab_size}; {REMEDY}"
        )
    return tokens, record
