"""A model by its address: what is read of it, and that what is none is refused before anything is fetched."""

import json

import huggingface_hub
import pytest
from gguf_for_tests import write_gguf
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from models_for_tests import save_tiny_model

from altq.models.config_file import read_config_file
from altq.models.model_folder import ModelFolder
from altq.sources.address import describe_model, name_of


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that holds one configuration."""
    config = {"model_type": "llama", "num_hidden_layers": 7, "hidden_size": 64, "intermediate_size": 128,
              "num_attention_heads": 4, "vocab_size": 300, "max_position_embeddings": 77}  # fmt: skip

    def snapshot_download(local_dir, dry_run=False, **_):
        if not dry_run:
            (local_dir / "config.json").write_text(json.dumps(config))
        return []

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return config


def test_a_folder_says_its_number_of_blocks(tmp_path):
    folder = save_tiny_model("llama_gqa", tmp_path / "mine")
    description = describe_model(str(folder))
    assert (description.path, description.num_blocks) == (str(folder), 2)


@pytest.mark.parametrize("name", ["llama_gqa", "gemma3_text"])
def test_a_gguf_file_says_its_sizes(tmp_path, name):
    folder = write_gguf(tmp_path / "tiny.gguf", name)
    description = describe_model(str(tmp_path / "tiny.gguf"))
    expected = read_config_file(ModelFolder.at(folder)).shape
    assert description.num_blocks == 2
    assert description.shape.model_copy(update={"head_dim": None}) == expected.model_copy(update={"head_dim": None})


def test_a_hub_model_says_its_sizes_before_its_weights_are_fetched(hub):
    description = describe_model("org/name@main")
    assert (description.hub, description.num_blocks) == ("org/name@main", 7)
    assert (description.shape.hidden_size, description.shape.max_position_embeddings) == (64, 77)


def test_what_is_no_model_is_refused_by_its_name(tmp_path, hub):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF")
    for address, message in (
        (tmp_path / "empty", "empty is not a model folder: it holds no config.json"),
        (tmp_path / "notes.txt", "notes.txt is a file, and no .gguf file; give a model folder"),
        (tmp_path / "cut.gguf", "cut.gguf is no model that can be quantized .its header is not readable"),
        ("nowhere", "nowhere is not there; give a model folder"),
        ("org/name", "org/name is not there; .*org/name@revision"),
    ):
        with pytest.raises(ValueError, match=message):
            describe_model(str(address))


def test_a_family_that_is_not_known_is_refused_before_its_weights(tmp_path, hub):
    hub["model_type"] = "mamba"
    with pytest.raises(ValueError, match="model family 'mamba' is not known"):
        describe_model("org/name@main")
    hub |= {"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}
    with pytest.raises(ValueError, match=r"hub model org/name@main.*is quantized already; give the original"):
        describe_model("org/name@main")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (GatedRepoError, ValueError, "org/name@main needs an account: accept its licence"),
        (RepositoryNotFoundError, ValueError, "org/name@main was not found, .*correct its name or revision"),
        (ConnectionError, ConnectionError, "org/name@main could not be fetched .*connect to the hub"),
    ],
)
def test_a_hub_that_does_not_give_it_is_one_message(monkeypatch, error, kind, message):
    def snapshot_download(**_):
        raise error.__new__(error)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(kind, match=message):
        describe_model("org/name@main")


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("org/some-Model_1.5@main", "some-Model_1.5"),
        ("/data/my models/A B.gguf", "A-B"),
        ("/data/_hidden/", "hidden"),
        ("/data/über", "ber"),
        ("ü", "model"),
        ("x" * 300, "x" * 60),
    ],
)
def test_results_are_named_after_the_last_part(address, name):
    assert name_of(address) == name
