"""Table 2: perplexity of every method at every setting, tidy (CSV) and in the paper's wide layout."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas

from altq.files import read_json, write_text
from altq.methods.table import FULL
from altq.report.labels import ROUNDINGS, method_label
from altq.report.published import PERPLEXITY_CORPORA, published_perplexity
from altq.report.table import Cell, Column, Row, Table, to_markdown, to_terminal
from altq.report.table_image import write_image
from altq.report.table_latex import to_latex
from altq.setting import FULL_PRECISION

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

    title: str = "Perplexity (lower is better) of quantized models."
    notes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    published_models: Mapping[str, str] = field(default_factory=dict)
    published_corpora: Mapping[str, str] = field(default_factory=dict)
    orientation: tuple[str, ...] = ("LLaMA-2-7B",)


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


def perplexity_frame(results: Sequence[Mapping[str, Any]], presentation: Presentation) -> pandas.DataFrame:
    """The tidy table, one row for each result, in the order of first appearance of settings, methods and so on.

    ValueError for two results of the same place, a perplexity that is not finite, or an unknown published name.
    """
    rows = [[*(result[name] for name in COLUMNS[:-1]), _published(result, presentation)] for result in results]
    frame = pandas.DataFrame(rows, columns=list(COLUMNS)).astype({"published": float})
    key = ["setting", "method", "weights", "model", "corpus", "seed"]
    if frame.duplicated(key).any():
        place = ", ".join(str(value) for value in frame.loc[frame.duplicated(key), key].iloc[0])
        raise ValueError(f"two results for {place}: the table has room for one")
    for name in ("perplexity", "perplexity_low", "perplexity_high"):
        for value in frame[name]:
            if not math.isfinite(value):
                raise ValueError(f"a result has {name} {value}; only finite perplexities are tabulated")
    order = pandas.DataFrame({name: pandas.factorize(frame[name])[0] for name in key})
    order["setting"] = order["setting"].where(frame["method"] != FULL, -1)
    return frame.loc[order.sort_values(key, kind="stable").index].reset_index(drop=True)


def wide_table(frame: pandas.DataFrame, presentation: Presentation) -> Table:
    """The paper's layout: a group of rows for each setting, columns corpus by model, the best of a setting in bold."""
    labels = presentation.labels
    places = [(corpus, model) for corpus in frame["corpus"].unique() for model in frame["model"].unique()]
    references = [(corpus, model) for corpus in PERPLEXITY_CORPORA for model in presentation.orientation]
    columns = [Column((f"{labels.get(corpus, corpus)} ↓", labels.get(model, model))) for corpus, model in places]
    columns += [Column((f"paper: {corpus} ↓", model), muted=True) for corpus, model in references]
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
    return Table("Table 2", presentation.title, ("Setting", "Method"), tuple(columns), tuple(groups), notes)


def write_table2(paths: Iterable[str | Path], csv: str | Path, presentation: Presentation) -> None:
    """Read the results and write `csv`, and beside it the wide table as .md, .tex and .png."""
    frame = perplexity_frame(read_results(paths), presentation)
    table = wide_table(frame, presentation)
    csv = Path(csv)
    write_text(csv.with_suffix(".md"), to_markdown(table))
    write_text(csv.with_suffix(".tex"), to_latex(table))
    write_image(table, csv.with_suffix(".png"))
    write_text(csv, frame.to_csv(index=False, lineterminator="\n"))


def read_table2(csv: str | Path) -> pandas.DataFrame:
    return pandas.read_csv(csv, keep_default_na=False, na_values={"published": [""]})


def render_terminal(csv: str | Path, presentation: Presentation, ansi: bool = False) -> str:
    """The wide table as text, from the tidy one."""
    return to_terminal(wide_table(read_table2(csv), presentation), ansi)


def format_perplexity(value: float, like: float | None = None) -> str:
    """Two decimals as the paper prints, fewer for large values, two digits and an exponent from ten thousand on.

    `like`: print with the decimals of this number instead, as a deviation stands beside its mean.
    """
    scale = value if like is None else like
    if scale >= 9999.5:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.{2 if scale < 99.995 else 1 if scale < 999.95 else 0}f}"


def _published(result: Mapping[str, Any], presentation: Presentation) -> float | None:
    model = presentation.published_models.get(result["model"])
    corpus = presentation.published_corpora.get(result["corpus"])
    if model is None or corpus is None:
        return None
    return published_perplexity(result["setting"], result["method"], model, corpus)


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
    mean = statistics.fmean(values)
    text = format_perplexity(mean)
    spread = f" ± {format_perplexity(statistics.stdev(values), like=mean)}" if len(values) > 1 else ""
    return Cell(text + spread, bold=text == best)


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
        methods = set(quantized["method"])
        beside = "each in the row of the same method"
        beside += "; Rotation has the fixed rotation of the paper's Table 1" if "rotation" in methods else ""
        beside += "; Affine, FlatQuant's transform with our recipe, has none" if "affine" in methods else ""
        notes.append(
            "Columns headed “paper” are the paper's own numbers, for its models and texts and with GPTQ, for "
            f"orientation only, {beside}."
        )
    return notes
