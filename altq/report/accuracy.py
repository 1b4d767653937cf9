"""Zero-shot results as a tidy table, their averages over tasks, and how accuracies are printed."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow

from altq.experiment.tasks import TASKS
from altq.report.perplexity import in_order
from altq.report.presentation import Presentation, numeral
from altq.report.published import published
from altq.report.results import read_accuracy
from altq.runtime.files import sha256

PLACE = ("setting", "method", "model", "weights", "seed")
COLUMNS = (
    *PLACE, "task", "num_items", "num_available", "num_truncated", "task_version", "metric", "accuracy", "stderr",
    "acc", "acc_stderr", "acc_norm", "acc_norm_stderr", "published",
)  # fmt: skip
AVERAGE = "average"
"""The `task` of rows that hold averages over tasks."""
ZERO_SHOT = "zero-shot average"
"""The heading of that average in tables of perplexities, as the paper has it."""


def read_accuracies(paths: Iterable[str | Path], presentation: Presentation) -> pandas.DataFrame:
    """Read zero-shot results into the tidy table, one row for each; accuracies are shares, from 0 to 1.

    accuracy, stderr: of the metric that enters the paper's average; acc, acc_norm: of both, the latter empty where the
    harness has none. published: the paper's, of the same method, model and task, as a share. ValueError for a file that
    is no zero-shot result, two of the same place, or an accuracy that is none.
    """
    rows = []
    for path in paths:
        result = read_accuracy(path)
        row = {name: result[name] for name in COLUMNS if name in result}
        for metric in ("acc", "acc_norm"):
            if metric in result:
                row |= {metric: result[metric]["value"], f"{metric}_stderr": result[metric]["stderr"]}
        row["metric"] = TASKS[result["task"]].metric
        row |= {"accuracy": row[row["metric"]], "stderr": row[f"{row['metric']}_stderr"]}
        row["published"] = _published(result, TASKS[result["task"]].label, presentation)
        rows.append(row)
    frame = pandas.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(COLUMNS[-6:], float))
    tasks = pandas.CategoricalDtype(list(TASKS), ordered=True)
    frame = frame.sort_values("task", kind="stable", key=lambda names: names.astype(tasks))
    return in_order(frame, ["setting", "method", "weights", "model", "task", "seed"])


def averages(frame: pandas.DataFrame, presentation: Presentation) -> pandas.DataFrame:
    """Average each accuracy over tasks: a row, with `task` average, for each method, setting and so on.

    accuracy: the paper's (acc_norm where a task has it); acc: acc for every task. stderr: of that mean, tasks being
    independent. published: the average as the paper prints it, where all of its tasks are here. ValueError where a task
    is missing for some and not for others.
    """
    tasks = set(frame["task"])
    rows = []
    for place, of_place in frame.groupby(list(PLACE), sort=False):
        if missing := tasks - set(of_place["task"]):
            raise ValueError(f"{', '.join(map(str, place))} lacks {', '.join(sorted(missing))}; evaluate them")
        row = dict(zip(PLACE, place, strict=True)) | {
            "task": AVERAGE,
            "metric": AVERAGE,
            "num_items": of_place["num_items"].sum(),
        }
        for name, stderr in (("accuracy", "stderr"), ("acc", "acc_stderr")):
            row[name] = of_place[name].mean()
            row[stderr] = math.sqrt((of_place[stderr] ** 2).sum()) / len(of_place)
        if len(of_place) == len(TASKS):
            row["published"] = _published(row, AVERAGE, presentation)
        rows.append(row)
    return pandas.DataFrame(rows, columns=list(frame.columns))


def read_items(paths: Iterable[str | Path]) -> dict[tuple[Any, ...], pandas.Series]:
    """Read whether each item was answered right, by the average's metric: (*PLACE, task) -> 0 or 1, by item.

    ValueError for items that are not those of the result beside them.
    """
    items = {}
    for path in map(Path, paths):
        result, parquet = read_accuracy(path), path.with_suffix(".parquet")
        if not parquet.is_file() or sha256(parquet) != result.get("items_sha256"):
            raise ValueError(f"{parquet} is not what {path} was made with; evaluate again")
        metric = TASKS[result["task"]].metric
        try:
            table = pandas.read_parquet(parquet, columns=["item", metric]).set_index("item")
        except (pyarrow.ArrowException, OSError, KeyError) as error:
            raise ValueError(f"{parquet} has no {metric} of each item ({error}); evaluate again") from error
        items[*(result[name] for name in PLACE), result["task"]] = table[metric]
    return items


def with_zero_shot(
    frame: pandas.DataFrame, paths: Sequence[str | Path], presentation: Presentation
) -> pandas.DataFrame:
    """Add the zero-shot average of each row's place, a share, to a tidy table of perplexities.

    All texts of a place have the same; nothing is added where `paths` is empty. ValueError where a row has none.
    """
    if not paths:
        return frame
    average = averages(read_accuracies(paths, presentation), presentation)[[*PLACE, "accuracy"]]
    joined = frame.merge(average.rename(columns={"accuracy": "zero_shot"}), on=list(PLACE), how="left")
    if joined["zero_shot"].isna().any():
        place = joined.loc[joined["zero_shot"].isna(), list(PLACE)].iloc[0]
        raise ValueError(f"{', '.join(map(str, place))} has a perplexity, but no zero-shot results; evaluate them")
    return joined


def zero_shot_models(frame: pandas.DataFrame) -> list[str]:
    """List the models with a zero-shot average beside their perplexities; none where it was not measured."""
    return list(frame["model"].unique()) if "zero_shot" in frame else []


def format_accuracy(values: Sequence[float]) -> str:
    """Print the mean of shares in per cent, with their standard deviation where there are several."""
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return numeral(100 * statistics.fmean(values), ".2f") + spread


def _published(result: Mapping[str, Any], column: str, presentation: Presentation) -> float:
    model = presentation.published_models.get(result["model"])
    entry = (
        published("table3", result["setting"], method=result["method"], model=model, column=column) if model else None
    )
    return entry.value / 100 if entry else np.nan
