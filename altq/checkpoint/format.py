"""A quantized checkpoint on disk: the tensors of each sublayer in a file of their own, and what they are.

The files are indexed as those of a sharded model, the first for embedding, last norm and head. Their names are altq's
own: a library that does not know altq finds no weights in the folder, where under transformers' names it would find
some, and initialize every projection at random. A file a sublayer is what a stopped assembly goes on from; joining them
at the end would copy the model once more and need its space twice.

`quantization_config` in config.json says how the sites of each sublayer are transformed, for whoever loads the model;
quantization.json, written last, says what results call it.
"""

import shutil
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, model_validator
from torch import Tensor

from altq.experiment.setting import FULL, FULL_PRECISION, Setting
from altq.models.config_file import CONFIG_FILE, read_config_file
from altq.models.model_folder import INDEX_FILE, SOURCE_FILE, ModelFolder
from altq.models.tokenizer import TOKENIZER_CONFIG_FILE
from altq.models.weights import ModelWeights
from altq.runtime.documents import Record, described, read_described
from altq.runtime.files import read_json, write_json
from altq.runtime.tensor_files import write_tensors
from altq.transforms.storage import check_description

CHECKPOINT_FILE = "quantization.json"
CHECKPOINT_INDEX_FILE = "altq.safetensors.index.json"
QUANT_METHOD = "altq"
CARD_FILE = "README.md"
"""The model card, as the hub names it."""
REMEDY = "assemble the checkpoint again"
SETTINGS_OF_LOADING = ("setting", "blocks")
"""What of a description goes into config.json; the rest are labels of results."""
PRIVATE_KEYS = ("_name_or_path", "name_or_path")
"""Keys of config.json and tokenizer_config.json that say where a model was on somebody's disk."""
MORE_TEMPLATES = "additional_chat_templates/*.jinja"
"""Chat templates beside the one of chat_template.jinja, where transformers writes them."""
NOT_COPIED = (SOURCE_FILE, INDEX_FILE, CONFIG_FILE)
"""Of what lies beside a model's weights: what is not so of a checkpoint."""


class Structure(Record):
    """How a sublayer is quantized: the transform at each site, and the options of its quantizers."""

    sites: dict[str, dict[str, Any]]
    signed: bool
    asymmetric: bool
    zero_point: bool = False

    @property
    def options(self) -> dict[str, bool]:
        """Options of its quantizers, see `Quantizers.at`."""
        return {"signed": self.signed, "asymmetric": self.asymmetric, "zero_point": self.zero_point}

    @model_validator(mode="after")
    def _has_known_sites(self) -> Self:
        for site, description in self.sites.items():
            check_description(description, site)
        return self


class Block(Record):
    """Both halves of a block."""

    attention: Structure
    ffn: Structure


class Description(Record):
    """Content of `quantization_config` in a checkpoint's config.json: all that its modules are made from."""

    quant_method: Literal["altq"]
    setting: Annotated[str, AfterValidator(lambda text: str(Setting.parse(text)))]
    blocks: list[Block]


class Labels(Record):
    """Content of quantization.json: labels of a checkpoint in results."""

    method: str
    setting: Annotated[str, AfterValidator(lambda text: str(Setting.parse(text)))]
    weights: Literal["gptq", "rtn"]
    seed: int
    policy: str


class CheckpointWeights(ModelWeights):
    """The tensors of a checkpoint."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(checkpoint_folder(folder))
        where = f"{self.source.display_name(CONFIG_FILE)}: quantization_config"
        self.description = described(self.config.quantization_config, Description, name=where, remedy=REMEDY)
        if (seen := len(self.description.blocks)) != self.num_blocks:
            raise ValueError(f"{where} describes {seen} blocks of {self.num_blocks}; {REMEDY}")

    def _check_tensors(self) -> None:
        """None: a projection has codes, or at 16 bits a weight, and what is missing is named when it is read."""


def checkpoint_folder(folder: str | Path) -> ModelFolder:
    """A folder as that of a checkpoint: how its files are named, and what helps where one is wrong."""
    return ModelFolder(Path(folder), str(folder), REMEDY, single_file=None, index_file=CHECKPOINT_INDEX_FILE)


def is_checkpoint(folder: str | Path) -> bool:
    """Whether a folder holds a checkpoint, by its config.json; ValueError for one that an older version wrote."""
    has_labels = (Path(folder) / CHECKPOINT_FILE).is_file()
    if not (Path(folder) / CONFIG_FILE).is_file():
        return False
    source = checkpoint_folder(folder) if has_labels else ModelFolder.at(folder)
    quantization = read_config_file(source).quantization_config or {}
    if quantization.get("quant_method") == QUANT_METHOD:
        return True
    if has_labels:
        raise ValueError(
            f"{folder} is a checkpoint of an older version, which other libraries took for a model without "
            f"projections: {source.display_name(CONFIG_FILE)} has no quantization_config; {REMEDY}"
        )
    return False


def labels_of(folder: str | Path) -> dict[str, Any]:
    """Labels of a checkpoint in results: its method, setting, weight rounding and seed; of a model, full precision.

    ValueError for a checkpoint without quantization.json.
    """
    path = Path(folder) / CHECKPOINT_FILE
    if not is_checkpoint(folder):
        return {"method": FULL, "setting": str(FULL_PRECISION), "weights": "none", "seed": 0}
    if not path.is_file():
        raise ValueError(f"{path} is missing: nothing says what results are to call this checkpoint; {REMEDY}")
    labels = read_described(path, Labels, REMEDY)
    return {name: getattr(labels, name) for name in ("method", "setting", "weights", "seed")}


def part_path(folder: str | Path, part: int, num_sublayers: int) -> Path:
    """The file of sublayer `part` - 1, or of what lies outside the blocks for 0."""
    return Path(folder) / f"altq-{part + 1:05d}-of-{num_sublayers + 1:05d}.safetensors"


def begin_checkpoint(folder: Path) -> None:
    """Take from a folder what says that it holds a whole checkpoint, and the weights that an older version put there.

    ValueError where it holds a model that is no checkpoint: beside its weights, ours would be overlooked.
    """
    older = [*folder.glob("model*.safetensors"), *folder.glob(INDEX_FILE)]
    index = folder / INDEX_FILE
    # No model has such a tensor, and every checkpoint has one for each site.
    if older and not (index.is_file() and b'.clip"' in index.read_bytes()):
        raise ValueError(f"{folder} holds a model already ({older[0].name}); give another folder, or remove it")
    for path in (folder / CHECKPOINT_FILE, folder / CONFIG_FILE, *older):
        path.unlink(missing_ok=True)


def write_part(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write one file of a checkpoint's tensors, whole or not at all; ValueError names one that is not finite."""
    write_tensors(path, tensors, {"format": "pt"})


def finish_checkpoint(
    folder: Path, model: Path, names: dict[str, list[str]], config: dict[str, Any], description: dict[str, Any]
) -> None:
    """Write what lies beside the tensors: index, what generation and chat need of the model, configuration, labels.

    names: the tensors of each file. description: what config.json and quantization.json hold between them. Where the
    model was before is not handed on.
    """
    write_index(folder, names)
    for path in (*model.iterdir(), *model.glob(MORE_TEMPLATES)):
        if path.suffix in (".json", ".model", ".txt", ".jinja") and path.name not in NOT_COPIED:
            place = folder / path.relative_to(model)
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, place)
    quantization = {name: description[name] for name in SETTINGS_OF_LOADING} | {"quant_method": QUANT_METHOD}
    write_json(folder / CONFIG_FILE, published(config) | {"quantization_config": quantization})
    if (folder / TOKENIZER_CONFIG_FILE).is_file():
        content = read_json(folder / TOKENIZER_CONFIG_FILE)
        if published(content) != content:
            write_json(folder / TOKENIZER_CONFIG_FILE, published(content))
    write_json(folder / CHECKPOINT_FILE, {name: value for name, value in description.items() if name != "blocks"})


def published(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a JSON file without where the model was."""
    return {key: value for key, value in content.items() if key not in PRIVATE_KEYS}


def write_index(folder: Path, names: dict[str, list[str]]) -> None:
    """Write which file holds each tensor; names: the tensors of each file."""
    weight_map = {name: file for file, of_file in names.items() for name in of_file}
    write_json(folder / CHECKPOINT_INDEX_FILE, {"metadata": {}, "weight_map": weight_map})
