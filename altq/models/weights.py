"""The tensors of a model folder, read one at a time."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from altq.models.config_file import CONFIG_FILE, ConfigFile, read_config_file
from altq.models.family import Family, family_of
from altq.models.fused_projection import fused_rows
from altq.models.model_folder import ModelFolder
from altq.models.read_ahead import ReadAhead
from altq.models.tensor_index import FLOATING_TYPES, HARMLESS, Entry, opened, read_tensor_index

NUM_NAMES_SHOWN = 3


class ModelWeights:
    """A model on disk. Nothing is held open, and no tensor is kept but of a block that is read ahead.

    Every file is opened once here, so that a missing, truncated or mismatched one is refused (ValueError) at once.
    """

    def __init__(self, folder: str | Path | ModelFolder) -> None:
        self.source = ModelFolder.at(folder)
        self.config: ConfigFile = read_config_file(self.source)
        self.family: Family = family_of(self.config.model_type)
        self.num_blocks: int = self.config.num_hidden_layers
        tensors = read_tensor_index(self.source)
        self.skipped = tuple(name for name in tensors if HARMLESS.search(name))
        self._ahead = ReadAhead(self._read_block)
        self._tensors = {name: entry for name, entry in tensors.items() if name not in self.skipped}
        self._split_fused()
        self._check_tensors()

    @property
    def folder(self) -> Path:
        return self.source.path

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def block_prefix(self, block: int) -> str:
        """Beginning of the names of a block's tensors; ValueError for a block that the model does not have."""
        if not 0 <= block < self.num_blocks:
            raise ValueError(f"{self.source.name}: no block {block}; the model has {self.num_blocks}, counted from 0")
        return f"{self.family.blocks}.{block}."

    def block_tensor_names(self, block: int) -> tuple[str, ...]:
        """Full names of all tensors of one block."""
        prefix = self.block_prefix(block)
        return tuple(name for name in self._tensors if name.startswith(prefix))

    def block(self, block: int) -> dict[str, Tensor]:
        """All tensors of one block by their name relative to it, e.g. `self_attn.q_proj.weight`; those read ahead once."""
        return self._ahead.take(block)

    def read_ahead(self, block: int, place: Callable[[Tensor], Tensor]) -> None:
        """Let a thread copy the tensors of a block, each by `place`, for the next call of `block` that asks for them."""
        self._ahead.begin(block, place)

    def _read_block(self, block: int) -> dict[str, Tensor]:
        prefix = self.block_prefix(block)
        return {name.removeprefix(prefix): self.tensor(name) for name in self.block_tensor_names(block)}

    def tensor(self, name: str) -> Tensor:
        entry = self._entry(name)
        with self._open(name) as file:
            if entry.stored == name:
                return file.get_tensor(name)
            return file.get_slice(entry.stored)[entry.first_row : entry.first_row + entry.shape[0]]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entry(name).shape

    def place(self, name: str) -> str:
        """A tensor as a message names it: its file, then its name."""
        entry = self._entry(name)
        return f"{self.source.display_name(entry.file)}: tensor {entry.stored}"

    def chunks(self, name: str, max_elements: int) -> Iterator[Tensor]:
        """Consecutive slices of whole rows of one tensor, each of at most `max_elements` (but at least one row)."""
        entry = self._entry(name)
        num_rows, *row_shape = entry.shape
        first, end = entry.first_row, entry.first_row + num_rows
        step = max(1, max_elements // max(1, math.prod(row_shape)))
        with self._open(name) as file:
            rows = file.get_slice(entry.stored)
            for start in range(first, end, step):
                yield rows[start : min(start + step, end)]

    def require_tensors_of(self, model: PreTrainedModel) -> None:
        """ValueError unless the tensors are those of transformers' model, each of its shape, and no other.

        Of two that are tied one may be missing, as when transformers loads them.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        tied = model.all_tied_weights_keys | {source: target for target, source in model.all_tied_weights_keys.items()}
        missing = sorted(name for name in shapes.keys() - self._tensors.keys() if tied.get(name) not in self._tensors)
        folder, remedy = self.source.name, self.source.remedy
        if missing:
            raise ValueError(
                f"{folder} lacks {len(missing)} tensors of the model, among them {_first_names(missing)}; {remedy}"
            )
        unknown = sorted(self._tensors.keys() - shapes.keys())
        if unknown:
            raise ValueError(
                f"{folder} has {len(unknown)} tensors that a {model.config.model_type} model of its {CONFIG_FILE} has "
                f"no place for, among them {_first_names(unknown)}; give the model that they belong to, or remove them"
            )
        for name, entry in self._tensors.items():
            if entry.shape != shapes[name]:
                raise ValueError(
                    f"{self.place(name)} has shape {list(entry.shape)}, but {CONFIG_FILE} makes it "
                    f"{list(shapes[name])}; correct either"
                )

    @contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        with opened(self.source, self._entry(name).file) as file:
            yield file

    def _entry(self, name: str) -> Entry:
        if name not in self._tensors:
            raise ValueError(
                f"{self.source.name} has no tensor {name!r}; is it the model that its {CONFIG_FILE} describes?"
            )
        return self._tensors[name]

    def _split_fused(self) -> None:
        """Put the parts of fused projections in their place; ValueError where one has another number of rows."""
        fused = fused_rows(self.family, self.config)
        for block, (name, rows) in product(range(self.num_blocks), fused.items()):
            for kind in ("weight", "bias"):
                whole = f"{self.block_prefix(block)}{name}.{kind}"
                if whole not in self._tensors:
                    continue
                place, entry = self.place(whole), self._tensors.pop(whole)
                if (expected := sum(rows.values())) != entry.shape[0]:
                    raise ValueError(
                        f"{place} has {entry.shape[0]} rows, but {CONFIG_FILE} makes them {expected} "
                        f"({', '.join(rows)}); correct either"
                    )
                self._tensors |= entry.split(
                    {f"{whole.removesuffix(kind)}{part}.{kind}": n for part, n in rows.items()}
                )

    def _check_tensors(self) -> None:
        """ValueError unless every projection is there and every tensor is of full precision."""
        for block in range(self.num_blocks):
            for half in (self.family.attention, self.family.ffn):
                for projection in half.projections:
                    name = f"{self.block_prefix(block)}{projection}.weight"
                    if name not in self._tensors:
                        raise ValueError(
                            f"{self.source.name} has no tensor {name!r}, which a model of {self.num_blocks} blocks "
                            f"must have; {self.source.remedy}, or correct its {CONFIG_FILE}"
                        )
        for name, entry in self._tensors.items():
            if entry.dtype not in FLOATING_TYPES:
                raise ValueError(
                    f"{self.place(name)} is {entry.dtype}, not floating point of 16 bits or more; give the "
                    "full-precision model"
                )


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:NUM_NAMES_SHOWN])
