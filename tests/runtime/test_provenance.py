"""A record says how a result was made, and leads back to everything that led to it."""

import hashlib

import pytest

from altq.runtime.code_hash import code_hash
from altq.runtime.files import write_json
from altq.runtime.provenance import provenance, read_record, write_provenance


@pytest.fixture
def chain(tmp_path):
    """A model, tokens drawn with it, and states made from both: what each stage leaves behind."""
    model, tokens, states = tmp_path / "model", tmp_path / "tokens.npy", tmp_path / "states"
    model.mkdir()
    write_json(model / "source.json", {"source": {"path": "m"}, "files": {"model.safetensors": "ab"}})
    tokens.write_bytes(b"12")
    write_json(tokens.with_suffix(".json"), {"num_windows": 3})
    states.mkdir()
    write_provenance(states, provenance("states", {"loss": "mse"}, [model, tokens]))
    return model, tokens, states


def test_a_record_has_everything(chain):
    record = provenance("states", {"loss": "mse"}, [])
    assert record["options"] == {"loss": "mse"} and record["code"] == code_hash("states")
    assert {"python", "numpy", "torch"} <= record["versions"].keys()
    assert record["machine"]["processors"] >= 1 and record["machine"]["threads"] >= 1
    assert record["seconds"] > 0 and record["processor_seconds"] > 0 and record["peak_memory"] > 10**6


def test_inputs_are_hashed(chain):
    model, tokens, _ = chain
    inputs = provenance("states", {}, [model, tokens])["inputs"]
    assert inputs[str(tokens)] == hashlib.sha256(b"12").hexdigest()
    assert inputs[str(model)] == hashlib.sha256((model / "source.json").read_bytes()).hexdigest()


def test_the_chain_is_flat_and_complete(chain):
    model, tokens, states = chain
    record = provenance("calibrate", {"seed": 0}, [model, states])
    upstream = record["upstream"]
    assert upstream.keys() == {str(model), str(tokens), str(states)}
    assert upstream[str(states)]["options"] == {"loss": "mse"} and "upstream" not in upstream[str(states)]
    assert upstream[str(tokens)] == {"num_windows": 3}
    assert upstream[str(model)]["files"] == {"model.safetensors": "ab"}


def test_a_result_file_carries_its_own_record(chain, tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"perplexity": 3.0, "provenance": {"command": "perplexity"}})
    assert read_record(path) == {"command": "perplexity"}
    write_json(path, {"kinds": []})
    assert read_record(path) == {}
    assert read_record(tmp_path / "text.txt") == {}


def test_a_folder_that_is_not_complete_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not complete"):
        provenance("states", {}, [tmp_path])
