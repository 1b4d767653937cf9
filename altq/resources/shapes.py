"""Shapes of models, found without their weights."""

from collections.abc import Mapping
from pathlib import Path

from altq.experiment.shape import Shape, Sizes
from altq.experiment.sources import ModelDescription
from altq.models.config_file import CONFIG_FILE, read_config_file
from altq.models.model_folder import ModelFolder

GUESSED = "guessed from num_blocks"


def sizes_of_models(models: Mapping[str, ModelDescription], folder: str | Path) -> dict[str, Sizes]:
    """The sizes of every model, seen from the working directory `folder` of the workflow.

    In this order: the config.json of the fetched model, the local folder's, the sizes in `made`, `shape` in the
    configuration. Without any of these the shape is guessed from the number of blocks, and its origin says so.
    """
    return {name: Sizes(*_shape(name, model, Path(folder))) for name, model in models.items()}


def _shape(name: str, model: ModelDescription, folder: Path) -> tuple[Shape, int, str]:
    candidates = [folder / "results" / "models" / name / CONFIG_FILE]
    if model.path and Path(model.path).is_dir():
        candidates.append(Path(model.path) / CONFIG_FILE)
    for path in candidates:
        if path.is_file():
            return read_config_file(ModelFolder.at(path.parent)).shape, model.num_blocks, str(path)
    if model.made:
        sizes = model.made.model_dump(exclude={"seed"})
        return Shape(**sizes, tied=False), model.num_blocks, "made"
    if model.shape:
        return model.shape, model.num_blocks, "shape in the configuration"
    return guessed_shape(model.num_blocks), model.num_blocks, GUESSED


def guessed_shape(num_blocks: int) -> Shape:
    """A LLaMA model of this depth, on the large side: 32 blocks are 4096 wide, 80 are 10,240."""
    hidden = 128 * num_blocks
    return Shape(
        hidden_size=hidden,
        intermediate_size=256 * -(-7 * hidden // 512),
        num_heads=num_blocks,
        num_kv_heads=num_blocks,
        vocab_size=128_256,
    )
