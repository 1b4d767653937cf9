"""Table 3: zero-shot accuracy of every method, with paired differences, tidy and as the paper prints it."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from altq.experiment.methods import method_of
from altq.experiment.setting import FULL, FULL_PRECISION
from altq.experiment.tasks import TASKS
from altq.report.accuracy import AVERAGE, PLACE, averages, format_accuracy, read_accuracies, read_items
from altq.report.intervals import Interval, mark_best, normal_interval
from altq.report.paired import mcnemar, mean_difference, paired_difference
from altq.report.perplexity import PAPERS_NUMBERS
from altq.report.presentation import HEADINGS, SAME, Entry, Presentation, method_label
from altq.report.table import Cell, Column, Row, Table
from altq.report.table_files import write_table

BOOTSTRAP_SEED = 0
SIGNIFICANT = 0.05
MARKS = {1: "†", -1: "‡"}
"""What follows an accuracy that is significantly better or worse than the reference's."""


def write_table3(paths: Sequence[str | Path], csv: str | Path, reference: str, presentation: Presentation) -> None:
    """Read the results and write `csv`, and beside it the wide table as .md, .tex and .png with its protocol."""
    frame = table3_frame(paths, reference, presentation)
    write_table(frame, wide_table(frame, presentation), csv)


def table3_frame(paths: Sequence[str | Path], reference: str, presentation: Presentation) -> pandas.DataFrame:
    """Tabulate a row for each result, and after those of a place the average over tasks.

    difference: to the accuracy of the method `reference` on the same items, with its 95 % bootstrap interval over
    items; mcnemar_p: of a task, the exact p-value; better: 1, 0 or -1, better, undecided or worse than the reference,
    by that test for a task and by the interval for the average. All are empty for the reference itself, for full
    precision, and where the reference was not evaluated.
    """
    frame, items = read_accuracies(paths, presentation), read_items(paths)
    average = averages(frame, presentation)
    comparisons: list[dict[str, Any]] = []
    for row in pandas.concat([frame, average], ignore_index=True).to_dict("records"):
        place = {name: row[name] for name in PLACE}
        other = tuple((place | {"method": reference}).values())
        tasks = list(frame["task"].unique()) if row["task"] == AVERAGE else [row["task"]]
        has_pairs = all((*other, task) in items for task in tasks)
        comparison = {}
        if has_pairs and row["method"] not in (reference, FULL):
            differences = {task: paired_difference(items[*place.values(), task], items[*other, task]) for task in tasks}
            interval = mean_difference(differences, np.random.Generator(np.random.PCG64(BOOTSTRAP_SEED)))
            comparison = dict(zip(("difference", "difference_low", "difference_high"), interval, strict=True))
            significant = interval.excludes_zero
            if row["task"] != AVERAGE:
                comparison["mcnemar_p"] = mcnemar(differences[row["task"]])
                significant = comparison["mcnemar_p"] < SIGNIFICANT
            comparison["better"] = int(np.sign(interval.value)) if significant else 0
        comparisons.append({"reference": reference, **comparison})
    columns = ("reference", "difference", "difference_low", "difference_high", "mcnemar_p", "better")
    joined = pandas.concat([frame, average], ignore_index=True).join(pandas.DataFrame(comparisons, columns=columns))
    of_method = joined.groupby(["setting", "method", "weights", "model"], sort=False).ngroup()
    return joined.iloc[of_method.argsort(kind="stable")].reset_index(drop=True).astype({"better": "Int64"})


def wide_table(frame: pandas.DataFrame, presentation: Presentation) -> Table:
    """Lay out a group of rows for each setting and columns task by model, then the average, as the paper does."""
    tasks, models = list(frame["task"].unique()), list(frame["model"].unique())
    places = [(model, task) for model in models for task in tasks]
    columns = [Column((presentation.label(model), _label(task))) for model, task in places]
    printed = set(frame.loc[frame["published"].notna(), ["model", "task"]].itertuples(index=False, name=None))
    papers = [place for place in places if place in printed]
    columns += [Column((f"paper: {presentation.label(model)}", _label(task)), muted=True) for model, task in papers]
    groups = []
    for setting, of_setting in frame.groupby("setting", sort=False):
        full = setting == str(FULL_PRECISION)
        methods = list(of_setting.groupby("method", sort=False))
        measured = [_column([_at(rows, *place) for _, rows in methods]) for place in places]
        groups.append(
            tuple(
                Row(
                    ("" if full else setting, method_label(method, rows["weights"].iloc[0], False)),
                    (*cells, *(_paper(_at(rows, *place)) for place in papers)),
                )
                for (method, rows), cells in zip(methods, zip(*measured, strict=True), strict=True)
            )
        )
    caption, protocol = _caption(frame, bool(papers)), (*presentation.protocol, *_protocol(frame))
    return Table(*HEADINGS["table3"], ("Setting", "Method"), tuple(columns), tuple(groups), caption, protocol)


def _label(task: str) -> str:
    return "Avg." if task == AVERAGE else TASKS[task].label


def _at(rows: pandas.DataFrame, model: str, task: str) -> pandas.DataFrame:
    """Select one model and task: a row for each seed."""
    return rows.loc[(rows["model"] == model) & (rows["task"] == task)]


def _column(methods: Sequence[pandas.DataFrame]) -> list[Cell]:
    """Print what each method has in one column: the best is bold, and marks follow what differs from the reference."""
    cells = [Cell(format_accuracy(rows["accuracy"].tolist())) if len(rows) else Cell() for rows in methods]
    best = mark_best(cells, [_interval(rows) for rows in methods], highest=True)
    return [replace(cell, text=cell.text + _mark(rows)) for cell, rows in zip(best, methods, strict=True)]


def _interval(rows: pandas.DataFrame) -> Interval | None:
    """Span the intervals of all seeds, each from its standard error; None where nothing was evaluated."""
    intervals = [normal_interval(row.accuracy, row.stderr) for row in rows.itertuples()]
    if not intervals:
        return None
    return Interval(rows["accuracy"].mean(), min(i.low for i in intervals), max(i.high for i in intervals))


def _mark(rows: pandas.DataFrame) -> str:
    """The mark of what is better, or worse, than the reference with every seed."""
    verdicts = set(rows["better"].dropna())
    return MARKS.get(verdicts.pop(), "") if len(verdicts) == 1 else ""


def _paper(rows: pandas.DataFrame) -> Cell:
    printed = rows["published"].dropna()
    return Cell(f"{100 * printed.iloc[0]:.2f}") if len(printed) else Cell()


def _caption(frame: pandas.DataFrame, with_papers: bool) -> str:
    sentences = ["Higher is better."]
    if frame["better"].notna().any():
        reference = method_of(frame["reference"].iloc[0]).label
        sentences.append(
            f"{MARKS[1]} significantly better, {MARKS[-1]} significantly worse than {reference} on the same items."
        )
    sentences.append("Bold: the best of a setting where its 95 % interval over items is clear of all others.")
    return " ".join([*sentences, *([PAPERS_NUMBERS] if with_papers else [])])


def _protocol(frame: pandas.DataFrame) -> Iterable[Entry]:
    """Say what the accuracies are, of how many items, and by which tests they are compared."""
    tasks = frame.loc[frame["task"] != AVERAGE].drop_duplicates(["task"])
    for row in tasks.itertuples():
        items, available = int(row.num_items), int(row.num_available)
        count = f"{row.metric}, {items} of {available} items, the same for every method"
        yield Entry(TASKS[row.task].label, count, SAME if items == available else f"{row.metric}, all items")
    error = 100 * frame.loc[frame["task"] == AVERAGE, "stderr"].max()
    yield Entry(
        "Avg.",
        f"the mean over tasks of these, with a standard error of about {error:.1f} points (that of a difference on the "
        "same items is smaller); the CSV file has acc, acc_norm, their averages and standard errors",
        SAME,
    )
    if frame["better"].notna().any():
        yield Entry(
            "Significant",
            "with the same setting and seed, with every seed: of a task by McNemar's exact test at the level "
            f"{SIGNIFICANT:g}, of the average where the 95 % bootstrap interval over items excludes zero; no "
            "correction for the number of comparisons",
        )
    truncated = frame.groupby("task")["num_truncated"].max().dropna()
    for task, number in truncated.items():
        if number:
            yield Entry("Truncated", f"{int(number)} items of {TASKS[task].label} lose their first tokens")
