"""Table 2: perplexity of every method at every setting, tidy (CSV) and in the paper's wide layout."""

from collections.abc import Iterable
from pathlib import Path

import pandas

from altq.experiment.methods import METHODS
from altq.experiment.setting import FULL, FULL_PRECISION
from altq.report.intervals import mark_best
from altq.report.perplexity import (
    PAPERS_NUMBERS,
    format_mean,
    paper_cells,
    paper_columns,
    paper_places,
    perplexity_columns,
    perplexity_frame,
    places_of,
    read_results,
    window_interval,
)
from altq.report.presentation import HEADINGS, ROUNDINGS, Entry, Presentation, method_label
from altq.report.published import COUNTERPARTS, counterpart_name
from altq.report.table import Cell, Row, Table
from altq.report.table_files import write_table


def wide_table(frame: pandas.DataFrame, presentation: Presentation) -> Table:
    """Lay out a group of rows for each setting and columns corpus by model, as the paper does.

    The best of a setting is bold where its interval over windows is clear of all others.
    """
    places, printed = places_of(frame), paper_places(frame)
    columns = perplexity_columns(frame, presentation) + paper_columns(frame, presentation)
    several_roundings = frame.loc[frame["method"] != FULL, "weights"].nunique() > 1
    groups = []
    for setting, of_setting in frame.groupby("setting", sort=False):
        full = setting == str(FULL_PRECISION)
        methods = list(of_setting.groupby(["method", "weights"], sort=False))
        measured = [_column([rows for _, rows in methods], *place) for place in places]
        groups.append(
            tuple(
                Row(
                    ("" if full else setting, method_label(method, weights, several_roundings)),
                    (*cells, *paper_cells(rows, printed)),
                )
                for ((method, weights), rows), cells in zip(methods, zip(*measured, strict=True), strict=True)
            )
        )
    caption = _caption(frame, several_roundings)
    protocol = (*presentation.protocol, *_counterparts(frame))
    return Table(*HEADINGS["table2"], ("Setting", "Method"), tuple(columns), tuple(groups), caption, protocol)


def write_table2(paths: Iterable[str | Path], csv: str | Path, presentation: Presentation) -> None:
    """Read the results and write `csv`, and beside it the wide table as .md, .tex and .png with its protocol."""
    frame = perplexity_frame(read_results(paths), presentation)
    write_table(frame, wide_table(frame, presentation), csv)


def _column(methods: Iterable[pandas.DataFrame], corpus: str, model: str) -> list[Cell]:
    """Print what each method has at one text and model, with the best marked."""
    at_place = [rows.loc[(rows["corpus"] == corpus) & (rows["model"] == model)] for rows in methods]
    cells = [Cell(format_mean(rows["perplexity"].tolist())) if len(rows) else Cell() for rows in at_place]
    return mark_best(cells, [window_interval(rows) for rows in at_place])


def _caption(frame: pandas.DataFrame, several_roundings: bool) -> str:
    quantized = frame.loc[frame["method"] != FULL]
    seeds = quantized["seed"].nunique()
    sentences = [f"Mean ± standard deviation over {seeds} seeds." if seeds > 1 else "One seed."]
    if not several_roundings and len(quantized):
        weights = quantized["weights"].iloc[0]
        sentences.append(f"Weights are rounded by {ROUNDINGS.get(weights, weights)}.")
    sentences.append("Bold: the best of a setting where its 95 % interval over windows is clear of all others.")
    return " ".join([*sentences, *([PAPERS_NUMBERS] if paper_places(frame) else [])])


def _counterparts(frame: pandas.DataFrame) -> list[Entry]:
    """Say which rows of the paper stand beside which methods, where it is not the row of the same name."""
    methods = frame["method"].unique() if paper_places(frame) else []
    entries = [
        Entry(f"{METHODS[name].label}, in grey", counterpart_name(name)) for name in methods if name in COUNTERPARTS
    ]
    if "affine" in methods:
        entries.append(Entry(f"{METHODS['affine'].label}, in grey", "none: FlatQuant's transform with our recipe"))
    return entries
