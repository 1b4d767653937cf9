"""Perplexity results as a tidy table, and how perplexities are printed in all tables."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas

from altq.experiment.setting import FULL
from altq.report.intervals import Interval
from altq.report.presentation import Entry, Presentation, numeral
from altq.report.published import published_perplexity
from altq.report.results import REMEDY, Windows, read_perplexity
from altq.report.table import Cell, Column
from altq.runtime.documents import read_described

PAPERS_NUMBERS = "Grey: the paper's own numbers."
COLUMNS = (
    "setting", "method", "model", "corpus", "weights", "perplexity", "perplexity_low", "perplexity_high", "seed",
    "num_tokens", "published",
)  # fmt: skip


def read_results(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Read perplexity result files; ValueError names one that is none."""
    return [read_perplexity(path) for path in paths]


def context_notes(paths: Iterable[Path]) -> list[Entry]:
    """Note each model that was measured on longer windows than it was made for, as a row of the protocol."""
    measured = [read_described(path, Windows, REMEDY) for path in paths if path.suffix == ".json"]
    beyond = {
        (windows.model, windows.window_length, context)
        for windows in measured
        if (context := windows.max_position_embeddings) and windows.window_length > context
    }
    return [
        Entry(
            "note",
            f"{model} was made for windows of at most {context} tokens and is measured on {length}: its loss at the "
            "places beyond is no measure of its quantization.",
        )
        for model, length, context in sorted(beyond)
    ]


def perplexity_frame(
    results: Sequence[Mapping[str, Any]], presentation: Presentation, table: str = "table2"
) -> pandas.DataFrame:
    """Tabulate results, a row for each, in the order of first appearance of settings, methods and so on.

    `published` is what the paper's `table` prints for the same method, model and text.
    ValueError for two results of the same place, a perplexity that is not finite, or an unknown published name.
    """
    rows = [[*(result[name] for name in COLUMNS[:-1]), _published(result, presentation, table)] for result in results]
    frame = pandas.DataFrame(rows, columns=list(COLUMNS)).astype({"published": float})
    for name in ("perplexity", "perplexity_low", "perplexity_high"):
        for value in frame[name]:
            if not math.isfinite(value):
                raise ValueError(f"a result has {name} {value}; only finite perplexities are tabulated")
    return in_order(frame, ["setting", "method", "weights", "model", "corpus", "seed"])


def in_order(frame: pandas.DataFrame, key: Sequence[str]) -> pandas.DataFrame:
    """Sort rows by the first appearance of the values of each column of `key`, full precision first.

    ValueError for two rows that are alike in all of them.
    """
    if frame.duplicated(key).any():
        place = ", ".join(str(value) for value in frame.loc[frame.duplicated(key), key].iloc[0])
        raise ValueError(f"two results for {place}: the table has room for one")
    order = pandas.DataFrame({name: pandas.factorize(frame[name])[0] for name in key})
    order["setting"] = order["setting"].where(frame["method"].to_numpy() != FULL, -1)
    return frame.iloc[order.sort_values(key, kind="stable").index].reset_index(drop=True)


def places_of(frame: pandas.DataFrame) -> list[tuple[str, str]]:
    """List the (corpus, model) of each column of perplexities."""
    return [(corpus, model) for corpus in frame["corpus"].unique() for model in frame["model"].unique()]


def perplexity_columns(frame: pandas.DataFrame, presentation: Presentation) -> list[Column]:
    """Make a column for each place."""
    return [Column((f"{presentation.label(c)} ↓", presentation.label(m))) for c, m in places_of(frame)]


def paper_places(frame: pandas.DataFrame) -> list[tuple[str, str]]:
    """List the places for which the paper prints a perplexity, where both the model and the text are its own."""
    printed = frame.loc[frame["published"].notna()]
    return [place for place in places_of(frame) if place in set(zip(printed["corpus"], printed["model"], strict=True))]


def paper_columns(frame: pandas.DataFrame, presentation: Presentation) -> list[Column]:
    """Make a grey column for each of the paper's places."""
    label = presentation.label
    return [Column((f"paper: {label(c)} ↓", label(m)), muted=True) for c, m in paper_places(frame)]


def paper_cells(rows: pandas.DataFrame, places: Iterable[tuple[str, str]]) -> list[Cell]:
    """Print the paper's perplexities beside the rows of one method, at `places`."""
    cells = []
    for corpus, model in places:
        printed = rows.loc[(rows["corpus"] == corpus) & (rows["model"] == model), "published"].dropna()
        cells.append(Cell(format_perplexity(printed.iloc[0])) if len(printed) else Cell())
    return cells


def window_interval(rows: pandas.DataFrame) -> Interval | None:
    """Span the intervals over windows of all seeds of one method; None where it was not evaluated."""
    if not len(rows):
        return None
    return Interval(rows["perplexity"].mean(), rows["perplexity_low"].min(), rows["perplexity_high"].max())


def format_perplexity(value: float, like: float | None = None) -> str:
    """Print two decimals as the paper does, fewer for large values, two digits and an exponent from ten thousand on.

    `like`: print with the decimals of this number instead, as a deviation stands beside its mean.
    """
    scale = value if like is None else like
    if scale >= 9999.5:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{numeral(int(exponent), 'd')}"
    return numeral(value, f".{2 if scale < 99.995 else 1 if scale < 999.95 else 0}f")


def format_mean(values: Sequence[float]) -> str:
    """Print the mean of perplexities, with their standard deviation where there are several."""
    mean = statistics.fmean(values)
    spread = f" ± {format_perplexity(statistics.stdev(values), like=mean)}" if len(values) > 1 else ""
    return format_perplexity(mean) + spread


def _published(result: Mapping[str, Any], presentation: Presentation, table: str) -> float | None:
    model = presentation.published_models.get(result["model"])
    corpus = presentation.published_corpora.get(result["corpus"])
    if model is None or corpus is None:
        return None
    return published_perplexity(result["setting"], result["method"], model=model, corpus=corpus, table=table)
