"""Windows of tokens: where they start, that they repeat, and that too few are refused."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models_for_tests import tiny_config

from altq.experiment.sources import CorpusDescription, Made, ModelDescription
from altq.models.tokenizer import load_tokenizer
from altq.runtime import files
from altq.sources import tokens
from altq.sources.corpus import fetch_corpus
from altq.sources.model import fetch_model
from altq.sources.token_file import read_tokens


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    fetch_model(ModelDescription(num_blocks=1, made=Made()), folder / "made")
    fetch_corpus(CorpusDescription(module="pydoc_data.topics"), folder / "pydoc")
    return folder / "made", folder / "pydoc"


@pytest.fixture(scope="module")
def begun(material, tmp_path_factory):
    """The same with a tokenizer that has a token to begin a text."""
    model, corpus = material
    folder = tmp_path_factory.mktemp("begun") / "made"
    shutil.copytree(model, folder)
    content = files.read_json(folder / "tokenizer_config.json")
    files.write_json(folder / "tokenizer_config.json", content | {"bos_token": content["eos_token"]})
    assert load_tokenizer(folder).bos_token_id == 0
    return folder, corpus


def test_first_windows_by_hand():
    stream = np.arange(11)
    assert tokens.first_windows(stream, None, 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert tokens.first_windows(stream, 1, 4).tolist() == [[0, 1, 2, 3]]
    with pytest.raises(ValueError, match=r"11 tokens give 2 windows of 4, but 3 are wanted .12 tokens."):
        tokens.first_windows(stream, 3, 4)
    with pytest.raises(ValueError, match="11 tokens give 0 windows of 12, but 1 are wanted"):
        tokens.first_windows(stream, None, 12)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 20), st.integers(0, 2**32))
def test_drawn_windows_are_runs_of_the_stream(length, window_length, num_windows, seed):
    stream = np.arange(length) + 100
    rng = np.random.Generator(np.random.PCG64(seed))
    if length < window_length:
        with pytest.raises(ValueError, match=f"{length} tokens are too few for a window of {window_length}"):
            tokens.draw_windows(stream, num_windows, window_length, rng)
        return
    windows = tokens.draw_windows(stream, num_windows, window_length, rng)
    assert windows.shape == (num_windows, window_length)
    assert (np.diff(windows, axis=1) == 1).all() and windows.min() >= 100 and windows.max() < 100 + length


def test_every_start_can_be_drawn():
    windows = tokens.draw_windows(np.arange(6), 500, 4, np.random.Generator(np.random.PCG64(0)))
    assert set(windows[:, 0].tolist()) == {0, 1, 2}


@given(st.integers(40, 400), st.integers(1, 12), st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**32))
def test_held_out_windows_share_no_token_with_the_calibration_windows(
    length, window_length, num_windows, held_out, seed
):
    stream = np.arange(length)
    drawn, other = np.random.Generator(np.random.PCG64(seed)), np.random.Generator(np.random.PCG64(seed))
    calibration = set(tokens.draw_windows(stream, num_windows, window_length, drawn).ravel().tolist())
    try:
        windows = tokens.draw_held_out(stream, num_windows, held_out, window_length, other)
    except ValueError as error:
        if "leave no room beside" not in str(error):
            raise
        free = [s for s in range(length - window_length + 1) if not calibration & set(range(s, s + window_length))]
        assert not free
        return
    assert windows.shape == (held_out, window_length) and (np.diff(windows, axis=1) == 1).all()
    assert not calibration & set(windows.ravel().tolist())


def test_every_free_place_can_be_held_out():
    drawn = [tokens.draw_held_out(np.arange(9), 1, 1, 3, np.random.Generator(np.random.PCG64(s))) for s in range(200)]
    assert {windows[0, 0].item() for windows in drawn} == set(range(7))


def test_calibration_tokens_repeat(material, tmp_path):
    model, corpus = material
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tokens.calibration_tokens(model, corpus, tmp_path / f"{name}.npy", num_windows=5, window_length=64, seed=seed)
    a, b, c = ((tmp_path / f"{name}.npy").read_bytes() for name in "abc")
    assert a == b != c
    windows = np.load(tmp_path / "a.npy")
    assert windows.dtype == np.int32 and windows.shape == (5, 64) and windows.max() < 512
    made = files.read_json(tmp_path / "a.json")
    assert made["seed"] == 0 and made["split"] == "calibration" and made["bos"] == "never"
    assert made["tokens_sha256"] == files.sha256(tmp_path / "a.npy")
    assert made["text_sha256"] == files.read_json(corpus / "source.json")["splits"]["calibration"]["sha256"]


def test_test_tokens_are_the_text(material, tmp_path):
    from transformers import AutoTokenizer

    model, corpus = material
    tokens.test_tokens(model, corpus, tmp_path / "all.npy", num_windows=None, window_length=128)
    tokens.test_tokens(model, corpus, tmp_path / "some.npy", num_windows=3, window_length=128)
    windows = np.load(tmp_path / "all.npy")
    assert windows.shape == (files.read_json(tmp_path / "all.json")["stream_tokens"] // 128, 128)
    assert np.array_equal(np.load(tmp_path / "some.npy"), windows[:3])
    text = AutoTokenizer.from_pretrained(model).decode(windows.ravel())
    assert (corpus / "test.txt").read_text().startswith(text) and len(text) > 100_000


def test_a_token_stands_before_each_window_which_has_one_less_of_text(begun, tmp_path):
    model, corpus = begun
    options = {"num_windows": 3, "window_length": 64}
    for name, draw in (("test", tokens.test_tokens), ("drawn", partial(tokens.calibration_tokens, seed=0))):
        draw(model, corpus, tmp_path / f"{name}.npy", **options, bos="window")
        draw(model, corpus, tmp_path / f"{name}-text.npy", num_windows=3, window_length=63, bos="never")
        windows = np.load(tmp_path / f"{name}.npy")
        assert windows.shape == (3, 64) and windows.dtype == np.int32 and not windows[:, 0].any()
        assert np.array_equal(windows[:, 1:], np.load(tmp_path / f"{name}-text.npy"))
        assert read_tokens(tmp_path / f"{name}.npy", model)[1].bos == "window"
    held_out = tmp_path / "held_out.npy"
    tokens.calibration_tokens(model, corpus, held_out, **options, seed=0, num_held_out=2, bos="window")
    taken = {tuple(row) for row in np.load(tmp_path / "drawn.npy")}
    assert np.load(held_out).shape == (2, 64) and not {tuple(row) for row in np.load(held_out)} & taken
    with pytest.raises(ValueError, match="windows of 1 tokens hold no text behind the token that begins one"):
        tokens.test_tokens(model, corpus, tmp_path / "a.npy", num_windows=None, window_length=1, bos="window")


def test_a_token_stands_before_a_document_once(begun, tmp_path):
    model, corpus = begun
    for bos in ("document", "never"):
        tokens.test_tokens(model, corpus, tmp_path / f"{bos}.npy", num_windows=3, window_length=64, bos=bos)
    whole, plain = (np.load(tmp_path / f"{bos}.npy").ravel() for bos in ("document", "never"))
    assert whole[0] == 0 and np.array_equal(whole[1:], plain[:-1])


def test_without_a_choice_windows_begin_as_the_family_is_evaluated(begun, tmp_path):
    model, corpus = begun
    gemma = tmp_path / "gemma"
    shutil.copytree(model, gemma)
    for name, folder in (("llama", model), ("gemma", gemma)):
        if name == "gemma":
            tiny_config("gemma3_text", vocab_size=512).save_pretrained(gemma)
        tokens.test_tokens(folder, corpus, tmp_path / f"{name}.npy", num_windows=2, window_length=16)
    assert [files.read_json(tmp_path / f"{name}.json")["bos"] for name in ("llama", "gemma")] == ["never", "window"]


def test_a_tokenizer_without_that_token_is_refused_where_one_is_asked_for(material, tmp_path):
    model, corpus = material
    for bos in ("window", "document"):
        with pytest.raises(ValueError, match=f"has no token that begins a text, for bos: {bos}; give bos: never"):
            tokens.test_tokens(model, corpus, tmp_path / "a.npy", num_windows=2, window_length=16, bos=bos)


def test_short_corpus_is_refused(material, tmp_path):
    model, corpus = material
    with pytest.raises(ValueError, match=r"calibration split of corpus pydoc is too short: .* window of 1000000; ask"):
        tokens.calibration_tokens(model, corpus, tmp_path / "a.npy", num_windows=1, window_length=10**6, seed=0)
    with pytest.raises(ValueError, match=r"test split of corpus pydoc is too short: .* but 100000 are wanted"):
        tokens.test_tokens(model, corpus, tmp_path / "a.npy", num_windows=10**5, window_length=64)
    assert list(tmp_path.iterdir()) == []


def test_foreign_tokenizer_is_refused(material, tmp_path):
    model, corpus = material
    (tmp_path / "m").mkdir()
    for path in model.iterdir():
        (tmp_path / "m" / path.name).write_bytes(path.read_bytes())
    config = files.read_json(model / "config.json")
    files.write_json(tmp_path / "m" / "config.json", {**config, "vocab_size": 300})
    with pytest.raises(ValueError, match="but the model has 300; the tokenizer is not this model's"):
        tokens.test_tokens(tmp_path / "m", corpus, tmp_path / "a.npy", num_windows=1, window_length=64)


def test_held_out_tokens_are_written_with_what_they_leave_alone(material, tmp_path):
    model, corpus = material
    options = {"num_windows": 5, "window_length": 64, "seed": 0}
    tokens.calibration_tokens(model, corpus, tmp_path / "calibration.npy", **options)
    tokens.calibration_tokens(model, corpus, tmp_path / "held_out.npy", **options, num_held_out=3)
    windows, taken = np.load(tmp_path / "held_out.npy"), np.load(tmp_path / "calibration.npy")
    assert windows.shape == (3, 64)
    assert not {tuple(row) for row in windows} & {tuple(row) for row in taken}
    made = files.read_json(tmp_path / "held_out.json")
    assert made["num_windows"] == 3 and "without a token of the 5 calibration windows" in made["windows"]


TEMPLATE = (
    "{% for turn in messages %}{% if turn['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<{{ turn['role'] }}>{{ turn['content'] }}{{ eos_token }}{% endfor %}"
)


def chat_corpus(folder, template, roles=("user", "assistant")):
    """A model with this template and a corpus of conversations."""
    fetch_model(ModelDescription(num_blocks=1, made=Made()), folder / "made")
    if template:
        (folder / "made" / "chat_template.jinja").write_text(template)
    rows = [{"messages": [{"role": role, "content": f"{role} {n}\nof many"} for role in roles]} for n in range(20)]
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fetch_corpus(CorpusDescription(path=str(folder / "chat.jsonl"), messages_field="messages"), folder / "chat")
    return folder / "made", folder / "chat"


def test_conversations_become_text_by_the_tokenizer_s_own_template(tmp_path):
    model, corpus = chat_corpus(tmp_path, TEMPLATE)
    tokens.test_tokens(model, corpus, tmp_path / "t.npy", num_windows=2, window_length=16)
    tokenizer = load_tokenizer(model)
    talks = [json.loads(line) for line in (corpus / "test.txt").read_text().split("\n")]
    text = "".join(f"<{turn['role']}>{turn['content']}<|endoftext|>" for talk in talks for turn in talk)
    assert len(talks) > 1
    found = np.load(tmp_path / "t.npy").ravel().tolist()
    assert found == tokenizer(text)["input_ids"][: len(found)] and tokenizer.eos_token_id in found


@pytest.mark.parametrize(
    ("template", "roles", "message"),
    [
        (None, ("user",), "the tokenizer has no chat template"),
        (TEMPLATE, ("tool",), r"test.txt, line 1: the chat template does not take this conversation \(no tools\)"),
    ],
)
def test_a_template_that_does_not_take_them_is_refused(tmp_path, template, roles, message):
    model, corpus = chat_corpus(tmp_path, template, roles)
    with pytest.raises(ValueError, match=message):
        tokens.test_tokens(model, corpus, tmp_path / "t.npy", num_windows=2, window_length=16)
