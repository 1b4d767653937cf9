"""What a zero-shot task asks of a model, in its tokens: made once for each model, the same for every method."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow
import pyarrow.parquet
from lm_eval.api.task import ConfigurableTask

from altq.evaluation.harness import HarnessModel, load_task
from altq.evaluation.likelihood import Request, is_truncated
from altq.experiment.tasks import ITEMS_FILE, TASKS
from altq.runtime.files import atomic


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
        """As Parquet: item, context, continuation; the rest is in the file's metadata."""
        table = pyarrow.table(
            {
                "item": pyarrow.array([request.item for request in self.requests], pyarrow.int64()),
                **{
                    part: pyarrow.array(
                        [getattr(request, part) for request in self.requests], pyarrow.list_(pyarrow.int32())
                    )
                    for part in ("context", "continuation")
                },
            }
        )
        known = {name: str(getattr(self, name)) for name in ("max_length", "num_available", "task_version")}
        with atomic(path) as partial:
            pyarrow.parquet.write_table(table.replace_schema_metadata(known), partial)

    @classmethod
    def read(cls, path: str | Path) -> "TaskRequests":
        """ValueError for a file that cannot be read."""
        try:
            table = pyarrow.parquet.read_table(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"requests {path} cannot be read ({error}); delete them and make them again") from error
        known = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
        requests = [Request(**row) for row in table.to_pylist()]
        return cls(requests, int(known["max_length"]), int(known["num_available"]), float(known["task_version"]))


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
    return TaskRequests(requests, model.max_length, len(parts), float(task.VERSION))


def read_parts(items_folder: str | Path, field: str | None) -> list[str]:
    """The part of the set that each item is of; the same for all where no field says it."""
    table = pyarrow.parquet.read_table(Path(items_folder) / ITEMS_FILE)
    if field is None:
        return [""] * table.num_rows
    if field not in table.column_names:
        raise ValueError(
            f"the items in {items_folder} have no field {field!r}, which says what part of the set they are of (they "
            f"have: {', '.join(table.column_names)}); correct the source of this task"
        )
    return [value.partition("~")[0] for value in table[field].to_pylist()]


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
        except (KeyError, ValueError, IndexError, TypeError, jinja2.TemplateError) as error:
            raise ValueError(_cannot_use(row, folder, f"{type(error).__name__}: {error}")) from error
        if choices is not None and not _is_among(label, choices):
            raise ValueError(_cannot_use(row, folder, f"its label {label!r} is none of its {len(choices)} choices"))


def _is_among(label: Any, choices: Sequence[str]) -> bool:
    return 0 <= label < len(choices) if isinstance(label, int) else label in choices


def _cannot_use(row: int, folder: str | Path, why: str) -> str:
    return f"item {row} of {folder} cannot be used: {why}; correct the source of this task"
