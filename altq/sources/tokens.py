"""Windows of tokens drawn from a corpus, stored once with their record beside them."""

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from altq.experiment.windows import Bos
from altq.models.config_file import read_config_file
from altq.models.family import family_of
from altq.models.model_folder import ModelFolder
from altq.runtime import files
from altq.runtime.resume import fingerprint_of
from altq.sources.corpus import has_conversations

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def draw_windows(stream: np.ndarray, num_windows: int, window_length: int, rng: np.random.Generator) -> np.ndarray:
    """Windows of a token stream at random starts, as GPTQ and the paper (section 4.1) draw calibration data.

    stream: [tokens]. Returns [num_windows, window_length]; windows may overlap. ValueError if none fits.
    """
    starts = _random_starts(stream, num_windows, window_length=window_length, rng=rng)
    return stream[starts[:, None] + np.arange(window_length)]


def _random_starts(stream: np.ndarray, num_windows: int, window_length: int, rng: np.random.Generator) -> np.ndarray:
    if len(stream) < window_length:
        raise ValueError(f"{len(stream)} tokens are too few for a window of {window_length}")
    return rng.integers(0, len(stream) - window_length + 1, size=num_windows)


def draw_held_out(
    stream: np.ndarray, num_windows: int, num_held_out: int, window_length: int, rng: np.random.Generator
) -> np.ndarray:
    """`num_held_out` windows that share no token with the `num_windows` that `draw_windows` draws with the same rng.

    stream: [tokens]. Returns [num_held_out, window_length]; they may overlap each other. ValueError where no place is
    left for them.
    """
    calibration_starts = _random_starts(stream, num_windows, window_length=window_length, rng=rng)
    free = np.ones(len(stream) - window_length + 1, dtype=bool)
    for start in calibration_starts:
        free[max(0, start - window_length + 1) : start + window_length] = False
    candidates = np.flatnonzero(free)
    if not len(candidates):
        raise ValueError(f"{len(stream)} tokens leave no room beside {num_windows} windows of {window_length}")
    starts = candidates[rng.integers(0, len(candidates), size=num_held_out)]
    return stream[starts[:, None] + np.arange(window_length)]


def first_windows(stream: np.ndarray, num_windows: int | None, window_length: int) -> np.ndarray:
    """The first `num_windows` non-overlapping windows of a token stream, or all that fit (None).

    stream: [tokens]. Returns [num_windows, window_length]; the tokens after the last full window are dropped.
    ValueError if fewer windows fit than are asked for.
    """
    available = len(stream) // window_length
    count = max(available, 1) if num_windows is None else num_windows
    if available < count:
        raise ValueError(
            f"{len(stream)} tokens give {available} windows of {window_length}, but {count} are wanted "
            f"({count * window_length} tokens)"
        )
    return stream[: count * window_length].reshape(count, window_length)


def calibration_tokens(
    model_folder: str | Path,
    corpus_folder: str | Path,
    path: str | Path,
    *,
    num_windows: int,
    window_length: int,
    seed: int,
    num_held_out: int | None = None,
    bos: Bos | None = None,
) -> None:
    """Write int32 [num_windows, window_length] tokens of the calibration split to `path`, with a .json beside it.

    The windows start at random places, numpy's PCG64(seed). With `num_held_out`, that number of other windows, which
    share no token with these, is written instead. bos: where the token that begins a text stands; as the model's family
    has it without. ValueError if the corpus is too short, or the tokenizer has no such token.
    """
    text = _Text.read(Path(model_folder), Path(corpus_folder), "calibration", bos)
    length = text.length_in(window_length)
    generator = np.random.Generator(np.random.PCG64(seed))
    how = "random starts, numpy Generator(PCG64(seed)); windows may overlap"
    try:
        if num_held_out is None:
            windows = draw_windows(text.stream, num_windows, window_length=length, rng=generator)
        else:
            windows = draw_held_out(
                text.stream, num_windows, num_held_out=num_held_out, window_length=length, rng=generator
            )
            how += f"; without a token of the {num_windows} calibration windows"
    except ValueError as error:
        raise ValueError(_too_short(corpus_folder, "calibration", error)) from None
    _write(Path(path), text.begun(windows), text, {"windows": how, "seed": seed})


def test_tokens(
    model_folder: str | Path,
    corpus_folder: str | Path,
    path: str | Path,
    *,
    num_windows: int | None,
    window_length: int,
    bos: Bos | None = None,  # noqa: PT028 (no test)
) -> None:
    """Write int32 [windows, window_length] tokens of the test split to `path`, with a .json beside it.

    They are the first `num_windows` non-overlapping windows (None: all). bos and ValueError: as `calibration_tokens`.
    """
    text = _Text.read(Path(model_folder), Path(corpus_folder), "test", bos)
    try:
        windows = first_windows(text.stream, num_windows, text.length_in(window_length))
    except ValueError as error:
        raise ValueError(_too_short(corpus_folder, "test", error)) from None
    record = {"windows": "the first non-overlapping ones; what is left after the last full one is dropped"}
    _write(Path(path), text.begun(windows), text, record)


test_tokens.__test__ = False  # type: ignore[attr-defined]  # not a test, whatever pytest makes of its name


def _too_short(corpus_folder: str | Path, split: str, error: ValueError) -> str:
    return (
        f"the {split} split of corpus {Path(corpus_folder).name} is too short: {error}; "
        "ask for fewer or shorter windows, or use a longer corpus"
    )


@dataclass(frozen=True)
class _Text:
    """A split of a corpus in a model's tokens, int32 [tokens], and what stands before each window, int32 [0 or 1]."""

    stream: np.ndarray
    bos: Bos
    prefix: np.ndarray
    model_folder: Path
    corpus_folder: Path
    split: str

    @classmethod
    def read(cls, model_folder: Path, corpus_folder: Path, split: str, bos: Bos | None) -> Self:
        """Encode a split; `bos` is the family's where none is given. ValueError as `calibration_tokens`."""
        from altq.models.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(model_folder)
        config = read_config_file(ModelFolder.at(model_folder))
        bos = bos or family_of(config.model_type).bos
        if bos != "never" and tokenizer.bos_token_id is None:
            raise ValueError(
                f"the tokenizer in {model_folder} has no token that begins a text, for bos: {bos}; give bos: never"
            )
        begin = np.asarray([] if bos == "never" else [tokenizer.bos_token_id], dtype=np.int32)
        stream = _token_stream(tokenizer, corpus_folder, split)
        largest = np.concatenate([begin, stream]).max(initial=0)
        if largest >= config.vocab_size:
            raise ValueError(
                f"the tokenizer in {model_folder} gives token {largest}, but the model has {config.vocab_size}; "
                "the tokenizer is not this model's"
            )
        if bos == "document":
            begin, stream = begin[:0], np.concatenate([begin, stream])
        return cls(stream, bos, begin, model_folder, corpus_folder, split)

    def length_in(self, window_length: int) -> int:
        """The tokens of text in a window; ValueError for none."""
        length = window_length - len(self.prefix)
        if length < 1:
            raise ValueError(f"windows of {window_length} tokens hold no text behind the token that begins one")
        return length

    def begun(self, windows: np.ndarray) -> np.ndarray:
        """Windows of text [windows, tokens] with what stands before each of them."""
        return np.concatenate([np.tile(self.prefix, (len(windows), 1)), windows], axis=1)


def _token_stream(tokenizer: "PreTrainedTokenizerBase", corpus_folder: Path, split: str) -> np.ndarray:
    """All tokens of a split, int32 [tokens]: the whole text in one call, for cutting it would change the merges."""
    from altq.models.tokenizer import write_out

    path = corpus_folder / f"{split}.txt"
    # Read as bytes: text mode would turn the carriage returns of a corpus into line feeds.
    text = path.read_bytes().decode("utf-8")
    if has_conversations(corpus_folder):
        lines = enumerate(text.split("\n"), start=1)
        text = "".join(write_out(tokenizer, json.loads(line), f"{path}, line {number}") for number, line in lines)
    ids = tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return np.asarray(ids, dtype=np.int32)


def _write(path: Path, windows: np.ndarray, text: _Text, record: dict[str, Any]) -> None:
    with files.atomic(path) as partial, open(partial, "wb") as file:
        np.save(file, np.ascontiguousarray(windows, dtype=np.int32))
    sidecar = {
        "model": text.model_folder.name,
        "corpus": text.corpus_folder.name,
        "split": text.split,
        "num_windows": windows.shape[0],
        "window_length": windows.shape[1],
        "stream_tokens": len(text.stream),
        "bos": text.bos,
        "text_sha256": files.sha256(text.corpus_folder / f"{text.split}.txt"),
        "model_fingerprint": _fingerprint(text.model_folder),
        "tokenizer_sha256": files.sha256(text.model_folder / "tokenizer.json"),
        "tokens_sha256": files.sha256(path),
        "versions": {name: version(name) for name in ("numpy", "tokenizers", "transformers")},
        **record,
    }
    files.write_json(path.with_suffix(".json"), sidecar)


def _fingerprint(model_folder: Path) -> str | None:
    """The hash of a model that `altq fetch-model` wrote; None for another folder, which has no record."""
    source = model_folder / "source.json"
    return fingerprint_of(files.read_json(source)["files"]) if source.is_file() else None
