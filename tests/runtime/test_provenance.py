"""A record says how a result was made, and leads back to everything that led to it."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from altq.runtime.code_hash import code_hash
from altq.runtime.files import write_json
from altq.runtime.provenance import provenance, read_record, recorded_path, write_provenance


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """A model, tokens drawn with it, and states made from both: what each stage leaves behind."""
    monkeypatch.chdir(tmp_path)
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
    assert inputs["tokens.npy"] == hashlib.sha256(b"12").hexdigest()
    assert inputs["model"] == hashlib.sha256((model / "source.json").read_bytes()).hexdigest()


def test_the_chain_is_flat_and_complete(chain):
    model, _, states = chain
    record = provenance("calibrate", {"seed": 0}, [model, states])
    upstream = record["upstream"]
    assert upstream.keys() == {"model", "tokens.npy", "states"}
    assert upstream["states"]["options"] == {"loss": "mse"} and "upstream" not in upstream["states"]
    assert upstream["tokens.npy"] == {"num_windows": 3}
    assert upstream["model"]["files"] == {"model.safetensors": "ab"}


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


@pytest.mark.parametrize("by", ["absolute", "from the folder", "a detour", "a link"])
def test_what_is_below_the_working_directory_is_recorded_as_seen_from_there(chain, tmp_path, by):
    (tmp_path.parent / "link").unlink(missing_ok=True)
    (tmp_path.parent / "link").symlink_to(tmp_path)
    path = {
        "absolute": tmp_path / "states",
        "from the folder": "states",
        "a detour": "model/../states/",
        "a link": tmp_path.parent / "link" / "states",
    }[by]
    record = provenance("calibrate", {}, [path])
    assert [*record["inputs"]] == ["states"] and "states" in record["upstream"]


def test_what_is_elsewhere_is_recorded_by_name_and_hash_and_not_by_its_place(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for owner in ("somebody", "else"):
        (tmp_path / owner / "model").mkdir(parents=True)
        write_json(tmp_path / owner / "model/source.json", {"files": {}, "family": owner})
    given = [tmp_path / "somebody/model", "../else/model"]
    record = provenance("states", {}, given)
    hashes = [hashlib.sha256(Path(path, "source.json").read_bytes()).hexdigest() for path in given]
    assert record["inputs"] == {f"elsewhere-{h[:12]}/model": h for h in hashes}
    assert [made["family"] for made in record["upstream"].values()] == ["somebody", "else"]
    places = json.dumps({name: [*record[name]] for name in ("inputs", "upstream")})
    assert not any(part in places for part in ("somebody", "else/", str(tmp_path)))


def test_results_elsewhere_are_recorded_from_the_name_of_their_folder_on(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "results/somebody/results/tokens").mkdir(parents=True)
    tokens = tmp_path / "results/somebody/results/tokens/test.npy"
    tokens.write_bytes(b"12")
    monkeypatch.chdir(tmp_path / "here")
    assert recorded_path(tokens) == f"elsewhere-{hashlib.sha256(b'12').hexdigest()[:12]}/results/tokens/test.npy"


def test_the_device_and_its_precision_are_recorded_where_something_was_computed():
    assert "device" not in provenance("select", {}, [])["machine"]
    on_cpu, on_gpu = (provenance("states", {}, [], torch.device(kind))["machine"] for kind in ("cpu", "cuda"))
    assert on_cpu["device"] == "cpu" and on_cpu["precision"] in ("products bfloat16", "products float32")
    assert (on_gpu["device"], on_gpu["precision"]) == ("cuda", "products tf32, attention bfloat16")
