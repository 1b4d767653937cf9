"""Table 2: perplexity of every method at every setting, tidy (CSV) and in the paper's wide layout."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas

from altq.experiment.methods import FULL, METHODS
from altq.experiment.setting import FULL_PRECISION
from altq.report.labels import ROUNDINGS, method_label
from altq.report.perplexity import (
    Presentation,
    format_mean,
    format_perplexity,
    paper_columns,
    paper_places,
    perplexity_columns,
    perplexity_frame,
    places_of,
    read_results,
    write_table,
)
from altq.report.published import COUNTERPARTS, counterpart_name, published_perplexity
from altq.report.table import Cell, Row, Table

TITLE = "Perplexity (lower is better) of quantized models."


def wide_table(frame: pandas.DataFrame, presentation: Presentation) -> Table:
    """The paper's layout: a group of rows for each setting, columns corpus by model, the best of a setting in bold."""
    places, references = places_of(frame), paper_places(presentation.orientation)
    columns = perplexity_columns(frame, presentation) + paper_columns(presentation)
    several_roundings = frame.loc[frame["method"] != FULL, "weights"].nunique() > 1
    groups = []
    for setting, of_setting in frame.groupby("setting", sort=False):
        full = setting == str(FULL_PRECISION)
        kinds = list(of_setting.groupby(["method", "weights"], sort=False))
        values = [[_values(rows, corpus, model) for corpus, model in places] for _, rows in kinds]
        best = [_best(column) for column in zip(*values, strict=True)]
        groups.append(
            tuple(
                Row(
                    stub=("" if full else setting, method_label(method, weights, several_roundings)),
                    cells=(
                        *(_cell(value, None if full else winner) for value, winner in zip(line, best, strict=True)),
                        *(_reference(setting, method, model, corpus) for corpus, model in references),
                    ),
                )
                for ((method, weights), _), line in zip(kinds, values, strict=True)
            )
        )
    notes = (*presentation.notes, *_reading_notes(frame, presentation, several_roundings))
    return Table("Table 2", TITLE, ("Setting", "Method"), tuple(columns), tuple(groups), notes)


def write_table2(paths: Iterable[str | Path], csv: str | Path, presentation: Presentation) -> None:
    """Read the results and write `csv`, and beside it the wide table as .md, .tex and .png."""
    frame = perplexity_frame(read_results(paths), presentation)
    write_table(frame, wide_table(frame, presentation), csv)


def _values(rows: pandas.DataFrame, corpus: str, model: str) -> list[float]:
    """One perplexity for each seed."""
    return rows.loc[(rows["corpus"] == corpus) & (rows["model"] == model), "perplexity"].tolist()


def _best(column: Sequence[list[float]]) -> str | None:
    """The lowest mean as printed, so that what prints alike is bold alike; None where nothing competes."""
    means = [statistics.fmean(values) for values in column if values]
    return format_perplexity(min(means)) if len(means) > 1 else None


def _cell(values: list[float], best: str | None) -> Cell:
    if not values:
        return Cell()
    return Cell(format_mean(values), bold=format_perplexity(statistics.fmean(values)) == best)


def _reference(setting: str, method: str, model: str, corpus: str) -> Cell:
    value = published_perplexity(setting, method, model, corpus)
    return Cell() if value is None else Cell(format_perplexity(value))


def _reading_notes(frame: pandas.DataFrame, presentation: Presentation, several_roundings: bool) -> list[str]:
    quantized = frame.loc[frame["method"] != FULL]
    notes = []
    if not several_roundings and len(quantized):
        weights = quantized["weights"].iloc[0]
        notes.append(f"Weights are rounded by {ROUNDINGS.get(weights, weights)}.")
    seeds = quantized["seed"].nunique()
    spread = f"Mean ± standard deviation over {seeds} seeds" if seeds > 1 else "One seed"
    notes.append(
        f"{spread}; the best of each column within a setting is marked. "
        "The CSV file has 95 % bootstrap intervals over windows."
    )
    if presentation.orientation:
        methods = list(quantized["method"].unique())
        beside = "each in the row of the same method"
        for method in (method for method in methods if method in COUNTERPARTS):
            beside += f"; {METHODS[method].label} has {counterpart_name(method)}"
        beside += "; Affine, FlatQuant's transform with our recipe, has none" if "affine" in methods else ""
        notes.append(
            "Columns headed “paper” are the paper's own numbers, for its models and texts and with GPTQ, for "
            f"orientation only, {beside}."
        )
    return notes
