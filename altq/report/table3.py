"""Table 3: zero-shot accuracy of every method, with paired differences to a reference, tidy and as the paper prints it."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from altq.experiment.methods import FULL, METHODS
from altq.experiment.setting import FULL_PRECISION
from altq.experiment.tasks import TASKS
from altq.report.accuracy import AVERAGE, PLACE, averages, format_accuracy, read_accuracies, read_items
from altq.report.labels import method_label
from altq.report.paired import mcnemar, mean_difference, paired_difference
from altq.report.perplexity import Presentation, write_table
from altq.report.published import published
from altq.report.table import Cell, Column, Row, Table

TITLE = "Zero-shot accuracy in per cent (higher is better) of quantized models."
BOOTSTRAP_SEED = 0
SIGNIFICANT = 0.05
MARKS = {1: "†", -1: "‡"}
"""After an accuracy that is significantly better or worse than the reference's."""


def write_table3(paths: Sequence[str | Path], csv: str | Path, reference: str, presentation: Presentation) -> None:
    """Read the results and write `csv`, and beside it the wide table as .md, .tex and .png."""
    frame = table3_frame(paths, reference, presentation)
    write_table(frame, wide_table(frame, presentation), csv)


def table3_frame(paths: Sequence[str | Path], reference: str, presentation: Presentation) -> pandas.DataFrame:
    """A row for each result, and after those of a place the average over tasks.

    difference: to the accuracy of the method `reference` on the same items, with its 95 % bootstrap interval over
    items; mcnemar_p: of a task, the exact p-value; better: 1, 0 or -1, better, undecided or worse than the reference,
    by that test for a task and by the interval for the average. All are empty for the reference itself, for full
    precision, and where the reference was not evaluated.
    """
    frame, items = read_accuracies(paths, presentation), read_items(paths)
    average = averages(frame)
    compared: list[dict[str, Any]] = []
    for row in pandas.concat([frame, average], ignore_index=True).to_dict("records"):
        place = {name: row[name] for name in PLACE}
        other = tuple((place | {"method": reference}).values())
        tasks = list(frame["task"].unique()) if row["task"] == AVERAGE else [row["task"]]
        known = all((*other, task) in items for task in tasks)
        comparison = {}
        if known and row["method"] not in (reference, FULL):
            differences = {task: paired_difference(items[*place.values(), task], items[*other, task]) for task in tasks}
            interval = mean_difference(differences, np.random.Generator(np.random.PCG64(BOOTSTRAP_SEED)))
            comparison = dict(zip(("difference", "difference_low", "difference_high"), interval))
            significant = interval.excludes_zero
            if row["task"] != AVERAGE:
                comparison["mcnemar_p"] = mcnemar(differences[row["task"]])
                significant = comparison["mcnemar_p"] < SIGNIFICANT
            comparison["better"] = int(np.sign(interval.value)) if significant else 0
        compared.append({"reference": reference, **comparison})
    columns = ("reference", "difference", "difference_low", "difference_high", "mcnemar_p", "better")
    joined = pandas.concat([frame, average], ignore_index=True).join(pandas.DataFrame(compared, columns=columns))
    of_method = joined.groupby(["setting", "method", "weights", "model"], sort=False).ngroup()
    return joined.iloc[of_method.argsort(kind="stable")].reset_index(drop=True).astype({"better": "Int64"})


def wide_table(frame: pandas.DataFrame, presentation: Presentation) -> Table:
    """The paper's layout: a group of rows for each setting, columns task by model, then the average."""
    tasks, models = list(frame["task"].unique()), list(frame["model"].unique())
    places = [(model, task) for model in models for task in tasks]
    columns = [Column((presentation.label(model), _label(task))) for model, task in places]
    papers = [(model, task) for model in presentation.orientation for task in (*TASKS, AVERAGE)]
    columns += [Column((f"paper: {model}", _label(task)), muted=True) for model, task in papers]
    groups = []
    for setting, of_setting in frame.groupby("setting", sort=False):
        full = setting == str(FULL_PRECISION)
        methods = {method: rows for method, rows in of_setting.groupby("method", sort=False)}
        shown = {method: [_of(rows, *place) for place in places] for method, rows in methods.items()}
        best = [_best(column) for column in zip(*shown.values())]
        groups.append(
            tuple(
                Row(
                    ("" if full else setting, method_label(method, rows["weights"].iloc[0], False)),
                    (
                        *(_cell(of, None if full else top) for of, top in zip(shown[method], best, strict=True)),
                        *(_paper(setting, method, *place) for place in papers),
                    ),
                )
                for method, rows in methods.items()
            )
        )
    notes = (*presentation.notes, *_reading_notes(frame))
    return Table("Table 3", TITLE, ("Setting", "Method"), tuple(columns), tuple(groups), notes)


def _label(task: str) -> str:
    return "Avg." if task == AVERAGE else TASKS[task].label


def _of(rows: pandas.DataFrame, model: str, task: str) -> pandas.DataFrame:
    """One row for each seed."""
    return rows.loc[(rows["model"] == model) & (rows["task"] == task)]


def _best(column: Iterable[pandas.DataFrame]) -> str | None:
    """The highest mean as printed; None where nothing competes."""
    means = [statistics.fmean(rows["accuracy"]) for rows in column if len(rows)]
    return format_accuracy([max(means)]) if len(means) > 1 else None


def _cell(rows: pandas.DataFrame, best: str | None) -> Cell:
    """The mean over seeds, marked where it is better or worse than the reference with every seed."""
    if not len(rows):
        return Cell()
    verdicts = set(rows["better"].dropna())
    mark = MARKS.get(verdicts.pop(), "") if len(verdicts) == 1 else ""
    values = rows["accuracy"].tolist()
    return Cell(f"{format_accuracy(values)}{mark}", bold=format_accuracy([statistics.fmean(values)]) == best)


def _paper(setting: str, method: str, model: str, task: str) -> Cell:
    entry = published("table3", setting, method, model, AVERAGE if task == AVERAGE else TASKS[task].label)
    return Cell() if entry is None else Cell(f"{entry.value:.2f}")


def _reading_notes(frame: pandas.DataFrame) -> list[str]:
    tasks = [task for task in frame["task"].unique() if task != AVERAGE]
    by_metric = {
        metric: [TASKS[task].label for task in tasks if TASKS[task].metric == metric] for metric in ("acc_norm", "acc")
    }
    said = " and ".join(f"{metric} for {', '.join(labels)}" for metric, labels in by_metric.items() if labels)
    of_tasks = frame.loc[frame["task"] != AVERAGE].drop_duplicates(["task"])
    counts = ", ".join(
        f"{TASKS[row.task].label} {int(row.num_items)} of {int(row.num_available)}" for row in of_tasks.itertuples()
    )
    notes = [
        f"Accuracy is {said}, as in the paper's average; the CSV file has both of every task, their averages and "
        f"standard errors. Items: {counts}, the same for every method.",
        f"A standard error of an average is about {100 * frame.loc[frame['task'] == AVERAGE, 'stderr'].max():.1f} "
        "points; that of a difference on the same items is smaller.",
    ]
    reference = frame["reference"].iloc[0]
    if frame["better"].notna().any():
        notes.append(
            f"{MARKS[1]} significantly better, {MARKS[-1]} significantly worse than {METHODS[reference].label} with "
            f"the same setting and seed on the same items: by McNemar's exact test at the level {SIGNIFICANT:g} for a "
            "task, by the 95 % bootstrap interval over items for the average; no correction is made for the number of "
            "comparisons."
        )
    truncated = frame.groupby("task")["num_truncated"].max().dropna()
    if (truncated > 0).any():
        listed = ", ".join(f"{TASKS[task].label} {int(count)}" for task, count in truncated.items() if count)
        notes.append(f"Items that are longer than the model's context and lose their first tokens: {listed}.")
    return notes
