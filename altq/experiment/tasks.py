"""The zero-shot tasks of Table 3: names of lm-evaluation-harness, and what we add to its definitions.

Imports nothing heavy, since the workflow reads it. Prompts and scoring are the harness's own; a further task is a row
here and a source of its data in the configuration.
"""

from difflib import get_close_matches
from typing import NamedTuple

ITEMS_FILE = "items.parquet"
"""The items of a task, in the folder of its data."""


class Task(NamedTuple):
    """A zero-shot task.

    label: as the paper prints it. folder: of the harness's definition. split: that the harness evaluates. metric:
    what enters the paper's average, acc_norm where the harness has it and acc elsewhere. part: the field of an item
    whose beginning, up to a tilde, names the part of the set it is of.
    """

    label: str
    folder: str
    split: str
    metric: str
    part: str | None = None


TASKS = {
    "arc_challenge": Task("ARC-C", "arc", "test", "acc_norm"),
    "arc_easy": Task("ARC-E", "arc", "test", "acc_norm"),
    "hellaswag": Task("HellaSwag", "hellaswag", "validation", "acc_norm", part="source_id"),
    "lambada_openai": Task("LAMBADA", "lambada", "test", "acc"),
    "piqa": Task("PIQA", "piqa", "validation", "acc_norm"),
    "winogrande": Task("WinoGrande", "winogrande", "validation", "acc"),
}


def checked_task(name: str) -> str:
    """The name of a task; ValueError for one that is not known, with the nearest that are."""
    if name not in TASKS:
        near = get_close_matches(name, TASKS, n=2, cutoff=0.35)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"task {name!r} is not known{hint} (known: {', '.join(TASKS)})")
    return name
