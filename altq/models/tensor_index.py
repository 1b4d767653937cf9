"""Index of a model folder's tensors: the file, shape and type of each.

Tensors are those that transformers reads: of the single file if it exists, otherwise of the files that the index names.
"""

import json
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open

from altq.models.model_folder import ModelFolder
from altq.runtime.documents import read_described

FLOATING_TYPES = ("F64", "F32", "F16", "BF16")
"""Types of weights in full precision, as safetensors names them."""

HARMLESS = re.compile(r"rotary_emb\.inv_freq$")
"""Frequencies that old checkpoints hold, in each block or once, and that follow from config.json."""


@dataclass(frozen=True)
class Entry:
    """Location and format of a tensor: the name of its file, its shape, its type as safetensors names it.

    A part of a stored tensor is consecutive rows of it, from `first_row`.
    """

    file: str
    stored: str
    shape: tuple[int, ...]
    dtype: str
    first_row: int = 0

    def split(self, rows: dict[str, int]) -> "dict[str, Entry]":
        """Parts of these numbers of rows, which are all that it has, by their names."""
        starts = accumulate(rows.values(), initial=0)
        return {
            name: replace(self, shape=(count, *self.shape[1:]), first_row=start)
            for (name, count), start in zip(rows.items(), starts, strict=False)
        }


class _Index(BaseModel):
    """The index of a sharded model: the file of each tensor, all of them in the folder itself."""

    model_config = ConfigDict(frozen=True, extra="allow")

    weight_map: dict[str, Annotated[str, Field(pattern=r"^[^/\\]+\.safetensors$")]] = Field(min_length=1)


def read_tensor_index(folder: ModelFolder) -> dict[str, Entry]:
    """Every tensor of a model folder by its name; ValueError where a file is missing, damaged or none of the folder."""
    single, index = folder.single_file, folder.index_file
    name, remedy = folder.display_name(index), folder.remedy_for(index)
    has_index = (folder.path / index).is_file()
    if single is not None and ((folder.path / single).is_file() or not has_index):
        return _entries(folder, single)
    if not has_index:
        raise ValueError(f"{name} is missing; {remedy}")
    weight_map = read_described(folder.path / index, _Index, remedy, name=name).weight_map
    tensors: dict[str, Entry] = {}
    for file in sorted(set(weight_map.values())):
        entries = _entries(folder, file)
        absent = {tensor for tensor, holder in weight_map.items() if holder == file} - entries.keys()
        if absent:
            raise ValueError(
                f"{folder.display_name(file)} has no tensor {min(absent)!r} though {name} says so; "
                f"{folder.remedy_for(file)}"
            )
        twice = entries.keys() & tensors.keys()
        if twice:
            first = tensors[min(twice)].file
            raise ValueError(f"{name}: both {first} and {file} hold the tensor {min(twice)!r}; remove one of them")
        tensors |= entries
    return tensors


@contextmanager
def opened(folder: ModelFolder, file: str) -> Iterator[Any]:
    """A safetensors file of a folder; ValueError where it is missing or damaged."""
    path = folder.path / file
    if not path.is_file():
        raise ValueError(
            f"{folder.display_name(file)} is missing (only safetensors are read); {folder.remedy_for(file)}"
        )
    try:
        with safe_open(path, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise ValueError(
            f"{folder.display_name(file)} is corrupt or cut ({error}; {_first_cut_tensor(path)}); "
            f"{folder.remedy_for(file)}"
        ) from error


def _entries(folder: ModelFolder, file: str) -> dict[str, Entry]:
    with opened(folder, file) as tensors:
        slices = {name: tensors.get_slice(name) for name in sorted(tensors.keys())}
        return {name: Entry(file, name, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}


def _first_cut_tensor(path: Path) -> str:
    # safetensors says that a file is broken, not where: its header (8 bytes of length, then JSON) tells which tensor.
    size = path.stat().st_size
    with open(path, "rb") as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, size)))
            ends = {name: entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"}
            cut = [name for name in sorted(ends, key=ends.__getitem__) if 8 + length + ends[name] > size]
        except (struct.error, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return "its header is not readable, so none of its tensors is"
    return f"the first tensor that is not whole is {cut[0]}" if cut else "its header disagrees with its data"
