"""The card of a checkpoint: from records alone, for the hub and for people, without paths of anybody's disk."""

import json

import pytest
import yaml

from altq.report.card import make_card

MODEL = {
    "source": {"path": "my-llama", "num_blocks": 2}, "family": "llama", "num_weights": 1000, "num_bytes": 2_000_000,
    "license": "apache-2.0", "num_blocks": 2,
}  # fmt: skip
TOKENS = {"corpus": "notes", "num_windows": 16, "window_length": 64, "text_sha256": "ab" * 32, "split": "calibration"}
VERSIONS = {"altq": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.7", "pandas": "3"}


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with the record of a checkpoint; what its function is given changes that of its model."""

    def write(**changes):
        options = {"setting": "W4A4K16V16", "method": "adaptive", "seed": 3, "rounding": {"weights": "gptq"}}
        upstream = {
            "results/models/mine": MODEL | changes,
            "results/tokens/x.npy": TOKENS,
            "results/a": {"command": "a"},
        }
        record = {"command": "assemble", "options": options, "versions": VERSIONS, "upstream": upstream}
        (tmp_path / "provenance.json").write_text(json.dumps(record))
        (tmp_path / "altq-00001-of-00002.safetensors").write_bytes(b"x" * 500_000)
        return tmp_path

    return write


def result(method, setting, value, corpus="notes", seed=3):
    interval = {"perplexity": value, "perplexity_low": value - 0.5, "perplexity_high": value + 0.5}
    return {"method": method, "setting": setting, "seed": seed, "corpus": corpus, **interval}


def parts(card):
    """Metadata and text."""
    _, metadata, text = card.split("---\n", 2)
    return yaml.safe_load(metadata), text


def test_people_read_what_it_is_and_what_it_costs(checkpoint):
    results = [result("full", "W16A16K16V16", 10.0, seed=0), result("adaptive", "W4A4K16V16", 12.25)]
    _, text = parts(make_card(checkpoint(), results))
    for expected in (
        "# mine at W4A4K16V16",
        "weights in 4 bits, activations in 4 bits.",
        "| base model | my-llama, a local one |",
        "| its licence | apache-2.0 |",
        "| method | Adaptive (`adaptive`), weights rounded by GPTQ |",
        "| calibration text | notes: 16 windows of 64 tokens, seed 3 (sha256 of the text abababababababab) |",
        "| weights before | 2.0 MB, 1,000 numbers |",
        "| weights after | 0.5 MB |",
        "| made with | altq 0.1.0, torch 2.13.0, transformers 5.23.0, python 3.11.7 |",
        "| notes | 10.00 (9.50 to 10.50) | 12.25 (11.75 to 12.75) |",
        "import altq.integration",
        "altq generate --folder",
    ):
        assert expected in text


def test_the_hub_reads_what_is_known_and_nothing_else(checkpoint):
    metadata, _ = parts(make_card(checkpoint(source={"hub": "org/name@abc", "num_blocks": 2}), []))
    assert metadata == {
        "base_model": "org/name", "license": "apache-2.0", "library_name": "transformers",
        "pipeline_tag": "text-generation", "tags": ["altq", "quantized", "W4A4K16V16", "llama"],
    }  # fmt: skip
    metadata, text = parts(make_card(checkpoint(license=None), []))
    assert "base_model" not in metadata and "license" not in metadata and "ask its authors" in text


def test_a_perplexity_stands_there_where_both_are_known(checkpoint):
    after = result("adaptive", "W4A4K16V16", 12.0)
    for results in (
        [after],
        [after, result("full", "W16A16K16V16", 10.0, corpus="other")],
        [result("full", "W16A16K16V16", 10.0), result("adaptive", "W4A4K16V16", 12.0, seed=4)],
    ):
        assert "Perplexity" not in make_card(checkpoint(), results)


def test_a_checkpoint_without_its_history_is_refused(checkpoint):
    folder = checkpoint()
    record = json.loads((folder / "provenance.json").read_text())
    del record["upstream"]["results/models/mine"]
    (folder / "provenance.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="has no record with family: what the checkpoint was made from is not known"):
        make_card(folder, [])


def test_groups_of_weights_are_said(checkpoint):
    folder = checkpoint()
    record = json.loads((folder / "provenance.json").read_text())
    record["options"]["setting"] = "W2A16K16V16g64"
    (folder / "provenance.json").write_text(json.dumps(record))
    assert "weights in 2 bits, a scale for each 64 channels of a weight's row." in make_card(folder, [])
