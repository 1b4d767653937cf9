import pytest

from altq.experiment.sources import ModelDescription
from altq.sources.model import fetch_model


@pytest.fixture(scope="session")
def made_model(tmp_path_factory):
    """A model folder with a tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "made"
    fetch_model(ModelDescription(made={"seed": 3}, num_blocks=2), folder)
    return folder
