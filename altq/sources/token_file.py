"""Windows of tokens as `altq tokens` wrote them: an array, and beside it how they were drawn."""

import tokenize
from pathlib import Path

import numpy as np
from pydantic import Field

from altq.runtime.documents import Record, read_described
from altq.runtime.files import sha256

REMEDY = "draw the tokens again"


class Drawn(Record):
    """What is said of an array of tokens."""

    model: str
    corpus: str
    num_windows: int = Field(ge=1)
    window_length: int = Field(ge=1)
    tokens_sha256: str


class _Vocabulary(Record):
    """What is read of a model's config.json."""

    vocab_size: int


def read_tokens(path: str | Path, model_folder: str | Path) -> tuple[np.ndarray, Drawn]:
    """Tokens [windows, length], and how they were drawn; ValueError where they are not what was drawn.

    model_folder: of the model or checkpoint that is to read them, whose vocabulary they have to be of.
    """
    path = Path(path)
    note = path.with_suffix(".json")
    drawn = read_described(note, Drawn, REMEDY)
    if sha256(path) != drawn.tokens_sha256:
        raise ValueError(f"{path} has another sha256 than {note} says; {REMEDY}")
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    # What numpy's parser of headers raises, and mapping a file that is shorter than its header says.
    except (ValueError, EOFError, OSError, OverflowError, SyntaxError, TypeError, tokenize.TokenError) as error:
        raise ValueError(f"{path} is no array of tokens ({error}); {REMEDY}") from error
    shape = (drawn.num_windows, drawn.window_length)
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
    return tokens, drawn
