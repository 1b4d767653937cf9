"""The tensors of a model folder, read one at a time: config.json beside model.safetensors, or its shards and index."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from altq.models.family import Family, family_of
from altq.runtime.files import read_json

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class ModelWeights:
    """A model on disk. Nothing is held open and no tensor is kept: memory is what the caller keeps.

    Every file is opened once here, so that a missing, truncated or mismatched one is refused (ValueError) at once.
    `remedy` is what an error tells to do about it; `weight_suffix` is how the tensor of a projection ends; `single_file`
    (None where there never is one) and `index_file` are where the tensors or the names of their files are.
    """

    single_file: str | None = SINGLE_FILE
    index_file = INDEX_FILE
    remedy = "fetch the model again"
    weight_suffix = "weight"

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config: dict[str, Any] = self._read_config()
        self.family: Family = family_of(self.config["model_type"])
        self.num_blocks: int = self.config["num_hidden_layers"]
        self._file_of = self._locate()
        self._check_projections()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._file_of)

    def block_prefix(self, block: int) -> str:
        if not 0 <= block < self.num_blocks:
            raise ValueError(f"{self.folder}: no block {block}; the model has {self.num_blocks}, counted from 0")
        return f"{self.family.blocks}.{block}."

    def block_tensor_names(self, block: int) -> tuple[str, ...]:
        """Full names of all tensors of one block."""
        prefix = self.block_prefix(block)
        return tuple(name for name in self._file_of if name.startswith(prefix))

    def block(self, block: int) -> dict[str, Tensor]:
        """All tensors of one block by their name relative to it, e.g. `self_attn.q_proj.weight`."""
        prefix = self.block_prefix(block)
        return {name.removeprefix(prefix): self.tensor(name) for name in self.block_tensor_names(block)}

    def tensor(self, name: str) -> Tensor:
        with self._open(name) as file:
            return file.get_tensor(name)

    def shape(self, name: str) -> tuple[int, ...]:
        with self._open(name) as file:
            return tuple(file.get_slice(name).get_shape())

    def chunks(self, name: str, max_elements: int) -> Iterator[Tensor]:
        """Consecutive slices of whole rows of one tensor, each of at most `max_elements` (but at least one row)."""
        with self._open(name) as file:
            rows = file.get_slice(name)
            num_rows, *row_shape = rows.get_shape()
            row_elements = 1
            for size in row_shape:
                row_elements *= size
            step = max(1, max_elements // max(1, row_elements))
            for start in range(0, num_rows, step):
                yield rows[start : start + step]

    @contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        if name not in self._file_of:
            raise ValueError(f"{self.folder} has no tensor {name!r}; is it the model that its config.json describes?")
        with self._open_file(self._file_of[name]) as file:
            yield file

    def _read_config(self) -> dict[str, Any]:
        path = self.folder / CONFIG_FILE
        if not path.is_file():
            raise ValueError(f"{path} is missing: {self.folder} is not a model folder")
        config = read_json(path)
        missing = [key for key in ("model_type", "num_hidden_layers") if key not in config]
        if missing:
            raise ValueError(f"{path} lacks {' and '.join(missing)}; it must be the config of a decoder-only model")
        return config

    def _locate(self) -> dict[str, Path]:
        """Which file holds each tensor, checked against the files themselves."""
        index = self.folder / self.index_file
        if not index.is_file():
            if self.single_file is None:
                raise ValueError(f"{index} is missing; {self.remedy}")
            path = self.folder / self.single_file
            return dict.fromkeys(self._tensor_names(path), path)
        file_of = {name: self.folder / file for name, file in read_json(index)["weight_map"].items()}
        for path in sorted(set(file_of.values())):
            absent = {name for name, file in file_of.items() if file == path} - set(self._tensor_names(path))
            if absent:
                raise ValueError(f"{path} has no tensor {min(absent)!r} though {index} says so; {self.remedy}")
        return file_of

    def _check_projections(self) -> None:
        for block in range(self.num_blocks):
            for half in (self.family.attention, self.family.ffn):
                for projection in half.projections:
                    name = f"{self.block_prefix(block)}{projection}.{self.weight_suffix}"
                    if name not in self._file_of:
                        raise ValueError(
                            f"{self.folder} has no tensor {name!r}, which a {self.config['model_type']} model of "
                            f"{self.num_blocks} blocks must have; {self.remedy} or correct its config.json"
                        )

    @contextmanager
    def _open_file(self, path: Path) -> Iterator[Any]:
        if not path.is_file():
            raise ValueError(f"{path} is missing; {self.remedy}")
        try:
            file = safe_open(path, framework="pt")
        except SafetensorError as error:
            raise ValueError(
                f"{path} is not a readable safetensors file ({error}); delete it and {self.remedy}"
            ) from error
        with file:
            yield file

    def _tensor_names(self, path: Path) -> list[str]:
        with self._open_file(path) as file:
            return sorted(file.keys())
