"""A model by its address, as people give it: a folder, a .gguf file, or a hub name at a revision.

What the configuration asks for besides (the number of blocks, the sizes that memory and time follow from) is read from
the model itself, and what cannot be quantized is refused before anything large is fetched.
"""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from altq.experiment.shape import Shape
from altq.experiment.sources import ModelDescription
from altq.models.config_file import CONFIG_FILE, ConfigFile, read_config_file
from altq.models.family import family_of
from altq.models.model_folder import ModelFolder
from altq.sources import gguf_header, hub, verification

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
LONGEST_NAME = 60


def describe_model(address: str) -> ModelDescription:
    """The description of a model by its address; ValueError for what is none, or of a family that is not known.

    Of a hub model config.json is fetched, and ConnectionError is raised where the hub is out of reach.
    """
    path = Path(address).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return _describe_gguf(path.absolute())
    if path.is_dir():
        config = _checked(ModelFolder.at(path))
        return ModelDescription(path=str(path.absolute()), num_blocks=config.num_hidden_layers)
    name, _, revision = address.partition("@")
    if HUB_NAME.fullmatch(name) and revision:
        with TemporaryDirectory() as folder:
            hub.fetch_config(address, Path(folder))
            config = _checked(ModelFolder(Path(folder), f"hub model {address}", "give another model"))
        return ModelDescription(hub=address, num_blocks=config.num_hidden_layers, shape=config.shape)
    kind = "is a file, and no .gguf file" if path.is_file() else "is not there"
    raise ValueError(
        f"{address} {kind}; give a model folder as transformers saves it, a .gguf file, or a hub model as "
        "org/name@revision (a commit, tag or branch, such as main)"
    )


def name_of(address: str) -> str:
    """The name that results have for a model: the last part of its address, as far as a file can have it."""
    path = Path(address).expanduser()
    last = path.absolute().stem if path.suffix == ".gguf" else path.absolute().name
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", last.partition("@")[0]).lstrip("_.-")
    return name[:LONGEST_NAME] or "model"


def _checked(folder: ModelFolder) -> ConfigFile:
    if not (folder.path / CONFIG_FILE).is_file():
        raise ValueError(
            f"{folder.name} is not a model folder: it holds no {CONFIG_FILE}; give one as transformers saves it, or a "
            ".gguf file"
        )
    return verification.check_config(folder, read_config_file(folder).num_hidden_layers)


def _describe_gguf(path: Path) -> ModelDescription:
    try:
        header = gguf_header.read_gguf_header(path)
        family_of({"gemma3": "gemma3_text"}.get(header.architecture, header.architecture))
        heads = header.of_model("attention.head_count")
        shape = Shape(
            hidden_size=header.of_model("embedding_length"),
            intermediate_size=header.of_model("feed_forward_length"),
            num_heads=heads,
            num_kv_heads=header.of_model("attention.head_count_kv", heads),
            head_dim=header.of_model("attention.key_length"),
            vocab_size=header.tensors["token_embd.weight"].shape[-1].item(),
            max_position_embeddings=header.of_model("context_length"),
            tied="output.weight" not in header.tensors,
        )
        return ModelDescription(path=str(path), num_blocks=header.of_model("block_count"), shape=shape)
    except (ValueError, LookupError) as error:
        raise ValueError(f"{path} is no model that can be quantized ({error}); give another file") from error
