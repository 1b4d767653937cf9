"""Whatever is in a model's files, a fetch succeeds or says in one message what is wrong, where, and what helps."""

import copy
import json
import re
import shutil

import pytest
from gguf import GGUFReader
from gguf_for_tests import write_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models_for_tests import save_tiny_model, transformers_model

from altq.experiment.sources import ModelDescription
from altq.models.model_folder import INDEX_FILE, SINGLE_FILE, ModelFolder
from altq.sources import verification
from altq.sources.gguf import convert
from altq.sources.model import fetch_model

NUM_MUTATIONS = 200
REMEDIES = ("correct", "replace", "remove", "give ", "add ")

fuzz = settings(
    max_examples=NUM_MUTATIONS, deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

nested = json.loads("[" * 500 + "]" * 500)
hostile_values = st.one_of(
    st.sampled_from([None, True, False, [], {}, "", "x", 0, -1, 1, 3, -1.5, 0.5, 1e308, nested]),
    st.sampled_from([2**31 - 1, 2**31, 2**63, 10**400]),
    st.lists(st.integers(-2, 2), max_size=3),
    st.text(max_size=8),
)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "model"
    save_tiny_model("llama_gqa", folder)
    transformers_model(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / SINGLE_FILE).unlink()
    return folder


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "m.gguf"
    write_gguf(path, "llama_gqa")
    return path


def accepted_or_refused(path, verify):
    """Run `verify`; a refusal is one line that names the file and says what helps."""
    try:
        verify()
    except ValueError as error:
        message = str(error)
        assert path.name in message, message
        assert any(remedy in message for remedy in REMEDIES), message
        assert "fetch the model again" not in message and ".partial" not in message, message
        assert "trust_remote_code" not in message, message


def verify_folder(folder):
    source = ModelFolder.at(folder)
    verification.check_config(source, 2)
    verification.check_tensors(source)


@st.composite
def mutated_bytes(draw, content):
    """The same content with some bytes changed, cut out or put in."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        match draw(st.sampled_from(["change", "cut", "insert", "end"])):
            case "change":
                content[place : place + 1] = bytes([draw(st.integers(0, 255))])
            case "cut":
                del content[place : place + draw(st.integers(1, 40))]
            case "insert":
                content[place:place] = draw(st.binary(min_size=1, max_size=8))
            case "end":
                del content[place:]
    return bytes(content)


def places(value, prefix=()):
    """The path of every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [prefix, *(place for key, part in inner for place in places(part, (*prefix, key)))]


@st.composite
def mutated_json(draw, content):
    """The same value with some parts exchanged, left out or put in."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places(content)))
        if not place:
            if draw(st.integers(0, 9)) == 0:
                return draw(hostile_values)
            continue
        holder = content
        for key in place[:-1]:
            holder = holder[key]
        match draw(st.sampled_from(["exchange", "exchange", "leave out", "put in"])):
            case "exchange":
                holder[place[-1]] = copy.deepcopy(draw(hostile_values))
            case "leave out":
                del holder[place[-1]]
            case "put in" if isinstance(holder, dict):
                holder[draw(st.text(max_size=6))] = copy.deepcopy(draw(hostile_values))
    return content


@pytest.mark.parametrize("file", ["config.json", INDEX_FILE])
def test_a_json_file_with_other_bytes(sharded, tmp_path, file):
    folder = shutil.copytree(sharded, tmp_path / "model")
    original = (sharded / file).read_bytes()

    @fuzz
    @given(content=mutated_bytes(original))
    def mutate(content):
        (folder / file).write_bytes(content)
        accepted_or_refused(folder, lambda: verify_folder(folder))

    mutate()


@pytest.mark.parametrize("file", ["config.json", INDEX_FILE])
def test_a_json_file_with_other_values(sharded, tmp_path, file):
    folder = shutil.copytree(sharded, tmp_path / "model")
    original = json.loads((sharded / file).read_text())

    @fuzz
    @given(content=mutated_json(original))
    def mutate(content):
        (folder / file).write_text(json.dumps(content))
        accepted_or_refused(folder, lambda: verify_folder(folder))

    mutate()


def verify_gguf(path):
    convert(path, ModelFolder(path.parent / "made", str(path), "correct or replace it"), 2)


def test_a_gguf_file_with_other_bytes(gguf, tmp_path):
    path, original = tmp_path / "m.gguf", gguf.read_bytes()
    end = GGUFReader(gguf).data_offset

    @fuzz
    @given(header=mutated_bytes(original[:end]))
    def mutate(header):
        path.write_bytes(header + original[end:])
        accepted_or_refused(path, lambda: verify_gguf(path))

    mutate()


def test_a_gguf_file_with_other_numbers(gguf, tmp_path):
    """Counts, lengths, types, sizes and offsets, each where it stands in the file."""
    path, original = tmp_path / "m.gguf", gguf.read_bytes()
    numbers = [(8, 8), (16, 8)]
    for field in GGUFReader(gguf).fields.values():
        place = field.offset
        if field.name.startswith("GGUF."):
            continue
        for part in field.parts[:8]:
            numbers += [(place, part.nbytes)] if part.nbytes in (4, 8) else []
            place += part.nbytes
    for tensor in GGUFReader(gguf).tensors:
        place = tensor.field.offset
        for part in tensor.field.parts:
            width = part.itemsize
            numbers += [(place + start, width) for start in range(0, part.nbytes, width) if width > 1]
            place += part.nbytes
    values = [0, 1, 2, 3, 7, 8, 9, 30, 255, 2**16, 2**31 - 1, 2**32 - 1, 2**40, 2**60, 2**63, 2**64 - 1]

    @fuzz
    @given(st.lists(st.tuples(st.sampled_from(numbers), st.sampled_from(values)), min_size=1, max_size=2))
    def mutate(changes):
        content = bytearray(original)
        for (place, width), value in changes:
            content[place : place + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
        path.write_bytes(content)
        accepted_or_refused(path, lambda: verify_gguf(path))

    mutate()


@pytest.mark.parametrize("file", ["config.json", INDEX_FILE])
@pytest.mark.parametrize("content", ["[]", "", "[" * 5000, '{"weight_map": {"a": "../outside.safetensors"}}'])
def test_a_fetch_names_the_users_own_file_and_no_hidden_one(sharded, tmp_path, file, content):
    folder = shutil.copytree(sharded, tmp_path / "model")
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=re.escape(str(folder / file))) as refused:
        fetch_model(ModelDescription(path=str(folder), num_blocks=2), tmp_path / "fetched")
    assert ".partial" not in str(refused.value)
