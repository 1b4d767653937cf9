"""A quantized checkpoint on disk: the tensors of each sublayer in a file of their own, and what they are.

The files are named and indexed as those of a sharded model (model-00001-of-00005.safetensors and so on), the first for
embedding, last norm and head; quantization.json, written last, says how the sites of each sublayer are transformed.
"""

import shutil
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, model_validator
from torch import Tensor

from altq.experiment.setting import FULL, FULL_PRECISION, Setting
from altq.models.config_file import CONFIG_FILE
from altq.models.model_folder import ModelFolder
from altq.models.tensor_index import INDEX_FILE
from altq.models.tokenizer import TOKENIZER_CONFIG_FILE
from altq.models.weights import ModelWeights
from altq.runtime.documents import Record, read_described
from altq.runtime.files import read_json, write_json
from altq.runtime.tensor_files import write_tensors
from altq.transforms.storage import check_description

CHECKPOINT_FILE = "quantization.json"
REMEDY = "assemble the checkpoint again"
PRIVATE_KEYS = ("_name_or_path", "name_or_path")
"""Keys of config.json and tokenizer_config.json that say where a model was on somebody's disk."""


class Structure(Record):
    """How a sublayer is quantized: the transform at each site, and the options of its quantizers."""

    sites: dict[str, dict[str, Any]]
    signed: bool
    asymmetric: bool

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
    """What quantization.json holds."""

    method: str
    setting: Annotated[str, AfterValidator(lambda text: str(Setting.parse(text)))]
    weights: Literal["gptq", "rtn"]
    seed: int
    policy: str
    blocks: list[Block]


class CheckpointWeights(ModelWeights):
    """The tensors of a checkpoint."""

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder) / CHECKPOINT_FILE
        self.description: dict[str, Any] = read_described(path, Description, REMEDY).model_dump()
        super().__init__(folder)
        if (seen := len(self.description["blocks"])) != self.num_blocks:
            raise ValueError(f"{path} describes {seen} blocks of {self.num_blocks}; {REMEDY}")

    def _describe(self, folder: str | Path) -> ModelFolder:
        return ModelFolder(Path(folder), str(folder), REMEDY)

    def _check_tensors(self) -> None:
        """None: a projection has codes, or at 16 bits a weight, and what is missing is named when it is read."""


def labels_of(folder: str | Path) -> dict[str, Any]:
    """What results say of a checkpoint: its method, setting, weight rounding and seed; of a model, full precision.

    ValueError for a checkpoint whose description lacks them, as an older version wrote it.
    """
    path = Path(folder) / CHECKPOINT_FILE
    if not path.is_file():
        return {"method": FULL, "setting": str(FULL_PRECISION), "weights": "none", "seed": 0}
    description = read_described(path, Description, REMEDY)
    return {name: getattr(description, name) for name in ("method", "setting", "weights", "seed")}


def part_path(folder: str | Path, part: int, num_sublayers: int) -> Path:
    """The file of sublayer `part` - 1, or of what lies outside the blocks for 0."""
    return Path(folder) / f"model-{part + 1:05d}-of-{num_sublayers + 1:05d}.safetensors"


def write_part(path: Path, tensors: dict[str, Tensor]) -> None:
    write_tensors(path, tensors, {"format": "pt"})


def finish_checkpoint(
    folder: Path, model: Path, names: dict[str, list[str]], config: dict[str, Any], description: dict[str, Any]
) -> None:
    """Write what lies beside the tensors: index, config.json, the model's tokenizer, quantization.json at the end.

    names: the tensors of each file. Where the model was before is not handed on.
    """
    weight_map = {name: file for file, of_file in names.items() for name in of_file}
    write_json(folder / INDEX_FILE, {"metadata": {}, "weight_map": weight_map})
    for path in model.iterdir():
        if path.suffix in (".json", ".model", ".txt", ".jinja") and path.name not in ("source.json", INDEX_FILE):
            shutil.copyfile(path, folder / path.name)
    write_json(folder / CONFIG_FILE, _published(config))
    if (folder / TOKENIZER_CONFIG_FILE).is_file():
        content = read_json(folder / TOKENIZER_CONFIG_FILE)
        if _published(content) != content:
            write_json(folder / TOKENIZER_CONFIG_FILE, _published(content))
    write_json(folder / CHECKPOINT_FILE, description)


def _published(content: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in PRIVATE_KEYS}
