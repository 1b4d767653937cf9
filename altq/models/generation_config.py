"""The generation_config.json of a model folder: how its authors mean its text to be made, and where it ends."""

from typing import Any

from transformers import GenerationConfig

from altq.models.model_folder import ModelFolder
from altq.runtime.documents import read_described

GENERATION_FILE = "generation_config.json"
REMEDY = "correct it, or remove it to take the likeliest token each time"


def load_generation_config(folder: ModelFolder) -> GenerationConfig | None:
    """The generation configuration of a folder; None where it has none, ValueError for one that transformers refuses.

    A model that is made from config.json alone never reads it, and would not stop at tokens that stand only there.
    """
    path = folder.path / GENERATION_FILE
    if not path.is_file():
        return None
    name = folder.display_name(GENERATION_FILE)
    content = read_described(path, dict[str, Any], REMEDY, name=name)
    try:
        config = GenerationConfig.from_dict(content)
        config.validate()
    # transformers checks by whatever its code trips over.
    except Exception as error:
        raise ValueError(f"{name} is refused by transformers ({' '.join(str(error).split())}); {REMEDY}") from error
    return config
