"""What a zero-shot task asks of a model, in its tokens: made once for each model, the same for every method."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from lm_eval.api.task import ConfigurableTask
from pydantic import BaseModel, ConfigDict, Field

from altq.evaluation.harness import HarnessModel, load_task, read_item_table
from altq.evaluation.likelihood import Request, is_truncated
from altq.experiment.tasks import TASKS
from altq.runtime.documents import described
from altq.runtime.files import atomic

SCHEMA = pyarrow.schema(
    {
        "item": pyarrow.int64(),
        "context": pyarrow.list_(pyarrow.int32()),
        "continuation": pyarrow.list_(pyarrow.int32()),
    }
)


class TaskDrawn(BaseModel):
    """Metadata of a file of requests."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    max_length: int = Field(ge=1)
    num_available: int = Field(ge=1)
    task_version: float


@dataclass(frozen=True)
class TaskRequests:
    """The requests of the drawn items of a task; `item` is the item's row. max_length: of the model's context."""

    requests: list[Request]
    max_length: int
    num_available: int
    task_version: float

    @property
    def items(self) -> list[int]:
        """The rows of the items, in order."""
        return list(dict.fromkeys(request.item for request in self.requests))

    @property
    def truncated_items(self) -> set[int]:
        """Items of which a request is longer than the context and loses its first tokens."""
        return {request.item for request in self.requests if is_truncated(request, self.max_length)}

    def write(self, path: str | Path) -> None:
        """Write a Parquet file of item, context and continuation; the rest is in its metadata."""
        columns = {name: [getattr(request, name) for request in self.requests] for name in SCHEMA.names}
        known = {name: str(getattr(self, name)) for name in TaskDrawn.model_fields}
        with atomic(path) as partial:
            pyarrow.parquet.write_table(pyarrow.table(columns, SCHEMA).replace_schema_metadata(known), partial)

    @classmethod
    def read(cls, path: str | Path) -> "TaskRequests":
        """ValueError for a file that cannot be read, or does not hold what `write` wrote."""
        remedy = "delete them and make them again"
        try:
            table = pyarrow.parquet.read_table(path)
            table.validate(full=True)
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"requests {path} cannot be read ({error}); {remedy}") from error
        if not table.schema.equals(SCHEMA) or not table.num_rows or any(map(_lacks_values, table.columns)):
            seen = ", ".join(f"{field.name} {field.type}" for field in table.schema)
            raise ValueError(f"requests {path} do not have an item and tokens in each row ({seen}); {remedy}")
        metadata = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in (table.schema.metadata or {}).items()
        }
        known = described(metadata, TaskDrawn, name=f"requests {path}", remedy=remedy)
        requests = [Request(**row) for row in table.to_pylist()]
        return cls(requests, known.max_length, known.num_available, known.task_version)


def _lacks_values(column: pyarrow.ChunkedArray) -> bool:
    """Whether a row, or a token in one, is missing or negative."""
    values = column.combine_chunks()
    flat = values.flatten() if pyarrow.types.is_list(values.type) else values
    lowest = pyarrow.compute.min(flat).as_py()
    return values.null_count > 0 or flat.null_count > 0 or (lowest is not None and lowest < 0)


def make_requests(
    name: str, items_folder: str | Path, model_folder: str | Path, limit: int | None, rng: np.random.Generator
) -> TaskRequests:
    """The harness's requests for the items of a task, or for `limit` of them drawn at random.

    ValueError where an item's label is out of range, or an item does not have the fields that the task reads.
    """
    parts = read_parts(items_folder, TASKS[name].part)
    drawn = draw_items(parts, limit, rng)
    task = load_task(name, items_folder, drawn)
    _check_labels(task, drawn, items_folder)
    task.build_all_requests()
    model = HarnessModel.without_weights(model_folder)
    requests = [request._replace(item=drawn[request.item]) for request in model.encode(task.instances)]
    return TaskRequests(
        requests=requests, max_length=model.max_length, num_available=len(parts), task_version=float(task.VERSION)
    )


def read_parts(items_folder: str | Path, field: str | None) -> list[str]:
    """The part of the set that each item is of, one for all without a field; ValueError for a field that is not there."""
    table = read_item_table(items_folder)
    if field is None:
        return [""] * table.num_rows
    if field not in table.column_names:
        raise ValueError(
            f"the items in {items_folder} have no field {field!r}, which says what part of the set they are of (they "
            f"have: {', '.join(table.column_names)}); correct the source of this task"
        )
    return [str(value).partition("~")[0] for value in table[field].to_pylist()]


def draw_items(parts: Sequence[str], limit: int | None, rng: np.random.Generator) -> list[int]:
    """Rows of items in order: all of them, or `limit` at random, of each part as many as its share asks for.

    What is left over after rounding down goes to the largest remainders.
    """
    if limit is None or limit >= len(parts):
        return list(range(len(parts)))
    names = sorted(set(parts))
    rows = {name: [row for row, part in enumerate(parts) if part == name] for name in names}
    exact = {name: limit * len(rows[name]) / len(parts) for name in names}
    counts = {name: int(exact[name]) for name in names}
    by_remainder = sorted(names, key=lambda name: exact[name] - counts[name], reverse=True)
    for name in by_remainder[: limit - sum(counts.values())]:
        counts[name] += 1
    drawn = [rng.choice(rows[name], size=counts[name], replace=False) for name in names]
    return sorted(int(row) for row in np.concatenate(drawn))


def _check_labels(task: ConfigurableTask, rows: Sequence[int], folder: str | Path) -> None:
    """ValueError for an item that has no right answer among its choices: the harness would count it as wrong."""
    for row, doc in zip(rows, task.eval_docs, strict=True):
        try:
            label = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
            choices = task.doc_to_choice(doc) if task.OUTPUT_TYPE == "multiple_choice" else None
        except (KeyError, ValueError, IndexError, TypeError, AttributeError, jinja2.TemplateError) as error:
            raise ValueError(_cannot_use(row, folder, f"{type(error).__name__}: {error}")) from error
        if choices is not None and not _is_among(label, choices):
            raise ValueError(_cannot_use(row, folder, f"its label {label!r} is none of its {len(choices)} choices"))


def _is_among(label: Any, choices: Sequence[str]) -> bool:
    return 0 <= label < len(choices) if isinstance(label, int) else label in choices


def _cannot_use(row: int, folder: str | Path, why: str) -> str:
    return f"item {row} of {folder} cannot be used: {why}; correct the source of this task"
