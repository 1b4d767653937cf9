"""Perplexity results as a tidy table, and how perplexities are printed: what all tables of perplexities share."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas

from altq.experiment.methods import FULL
from altq.report.published import PERPLEXITY_CORPORA, published_perplexity
from altq.report.table import Column, Table, to_markdown
from altq.report.table_image import write_image
from altq.report.table_latex import to_latex
from altq.runtime.files import read_json, write_text

COLUMNS = (
    "setting", "method", "model", "corpus", "weights", "perplexity", "perplexity_low", "perplexity_high", "seed",
    "num_tokens", "published",
)  # fmt: skip


@dataclass(frozen=True)
class Presentation:
    """What the results do not say themselves: the protocol, and what our models and corpora are called.

    notes: the protocol, a sentence each. labels: printed names of models and corpora, by ours. published_models,
    published_corpora: the paper's names, by ours, of those that are the paper's. orientation: the paper's models whose
    numbers stand in grey at the right.
    """

    notes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    published_models: Mapping[str, str] = field(default_factory=dict)
    published_corpora: Mapping[str, str] = field(default_factory=dict)
    orientation: tuple[str, ...] = ("LLaMA-2-7B",)

    def label(self, name: str) -> str:
        """The printed name of a model or corpus."""
        return self.labels.get(name, name)


def read_results(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Read perplexity result files; ValueError names one that misses a field."""
    results = []
    for path in paths:
        result = read_json(path)
        missing = [name for name in COLUMNS[:-1] if name not in result]
        if missing:
            raise ValueError(f"{path} is not a perplexity result: {', '.join(missing)} missing; evaluate again")
        results.append(result)
    return results


def perplexity_frame(
    results: Sequence[Mapping[str, Any]], presentation: Presentation, table: str = "table2"
) -> pandas.DataFrame:
    """The tidy table, one row for each result, in the order of first appearance of settings, methods and so on.

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
    """The rows by first appearance of the values of each column of `key`, full precision first.

    ValueError for two rows that are alike in all of them.
    """
    if frame.duplicated(key).any():
        place = ", ".join(str(value) for value in frame.loc[frame.duplicated(key), key].iloc[0])
        raise ValueError(f"two results for {place}: the table has room for one")
    order = pandas.DataFrame({name: pandas.factorize(frame[name])[0] for name in key})
    order["setting"] = order["setting"].where(frame["method"].to_numpy() != FULL, -1)
    return frame.iloc[order.sort_values(key, kind="stable").index].reset_index(drop=True)


def places_of(frame: pandas.DataFrame) -> list[tuple[str, str]]:
    """(corpus, model) of each column of perplexities."""
    return [(corpus, model) for corpus in frame["corpus"].unique() for model in frame["model"].unique()]


def paper_places(models: Iterable[str]) -> list[tuple[str, str]]:
    """(corpus, model) of the paper's columns, for these of its models."""
    return [(corpus, model) for corpus in PERPLEXITY_CORPORA for model in models]


def perplexity_columns(frame: pandas.DataFrame, presentation: Presentation) -> list[Column]:
    """A column for each place."""
    return [Column((f"{presentation.label(c)} ↓", presentation.label(m))) for c, m in places_of(frame)]


def paper_columns(presentation: Presentation) -> list[Column]:
    """A grey column for each of the paper's places."""
    return [Column((f"paper: {c} ↓", m), muted=True) for c, m in paper_places(presentation.orientation)]


def format_perplexity(value: float, like: float | None = None) -> str:
    """Two decimals as the paper prints, fewer for large values, two digits and an exponent from ten thousand on.

    `like`: print with the decimals of this number instead, as a deviation stands beside its mean.
    """
    scale = value if like is None else like
    if scale >= 9999.5:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.{2 if scale < 99.995 else 1 if scale < 999.95 else 0}f}"


def format_mean(values: Sequence[float]) -> str:
    """The mean of perplexities, with their standard deviation where there are several."""
    mean = statistics.fmean(values)
    spread = f" ± {format_perplexity(statistics.stdev(values), like=mean)}" if len(values) > 1 else ""
    return format_perplexity(mean) + spread


def write_table(frame: pandas.DataFrame, table: Table, csv: str | Path) -> None:
    """Write the tidy table as `csv`, and beside it the one to read as .md, .tex and .png."""
    csv = Path(csv)
    write_text(csv.with_suffix(".md"), to_markdown(table))
    write_text(csv.with_suffix(".tex"), to_latex(table))
    write_image(table, csv.with_suffix(".png"))
    write_text(csv, frame.to_csv(index=False, lineterminator="\n"))


def read_tidy(csv: str | Path) -> pandas.DataFrame:
    """A tidy table as it was written; the names of models stay text, and only what is empty is absent."""
    return pandas.read_csv(csv, keep_default_na=False, na_values=[""], dtype={"model": str})


def _published(result: Mapping[str, Any], presentation: Presentation, table: str) -> float | None:
    model = presentation.published_models.get(result["model"])
    corpus = presentation.published_corpora.get(result["corpus"])
    if model is None or corpus is None:
        return None
    return published_perplexity(result["setting"], result["method"], model, corpus, table)
