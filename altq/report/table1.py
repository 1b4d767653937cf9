"""Table 1: random selections against one kind everywhere, tidy (CSV) and as the paper prints it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas

from altq.experiment.setting import FULL, FULL_PRECISION
from altq.report.accuracy import ZERO_SHOT, format_accuracy, with_zero_shot, zero_shot_models
from altq.report.perplexity import (
    PAPERS_NUMBERS,
    format_mean,
    paper_columns,
    paper_places,
    perplexity_columns,
    perplexity_frame,
    places_of,
    read_results,
)
from altq.report.presentation import HEADINGS, Entry, Presentation
from altq.report.published import published
from altq.report.table import Cell, Column, Row, Table
from altq.report.table_files import write_table
from altq.selection.random import best_of

ROWS = {
    FULL: "Full precision",
    "affine": "Affine everywhere",
    "rotation": "Rotation everywhere",
    "random": "Random, mean ± deviation",
    "best_random": "Best random",
}
"""The rows of a setting, by the paper's names."""


def write_table1(paths: Iterable[Path], zero_shot: Sequence[Path], csv: Path, presentation: Presentation) -> None:
    """Write `csv`, a row for each result, and beside it the summary as .md, .tex and .png with its protocol."""
    frame = with_zero_shot(perplexity_frame(read_results(paths), presentation, table="table1"), zero_shot, presentation)
    write_table(frame, wide_table(frame, presentation), csv)


def wide_table(frame: pandas.DataFrame, presentation: Presentation) -> Table:
    """Lay out a group of rows for each setting: full precision, each kind everywhere, the mean and the best random.

    The best is one selection for each model: that with the lowest geometric mean over texts.
    """
    places, averaged = places_of(frame), zero_shot_models(frame)
    papers = [(presentation.published_corpora[c], presentation.published_models[m]) for c, m in paper_places(frame)]
    papers += [
        (ZERO_SHOT, presentation.published_models[model])
        for model in averaged
        if model in {model for _, model in paper_places(frame)}
    ]
    settings = [setting for setting in frame["setting"].unique() if setting != str(FULL_PRECISION)]
    groups, winners = [], []
    for setting in settings:
        of_setting = frame.loc[frame["setting"].isin([setting, str(FULL_PRECISION)])]
        best = {}
        for model, rows in of_setting.loc[_is_random(of_setting)].groupby("model", sort=False):
            best[model] = best_of(rows.to_dict("records"))
            winners.append(f"{presentation.label(model)} at {setting}: {best[model]}")
        values = {name: [_perplexities(of_setting, name, best, *place) for place in places] for name in ROWS}
        average = {name: [_accuracies(of_setting, name, best=best, model=model) for model in averaged] for name in ROWS}
        groups.append(
            tuple(
                Row(
                    (setting, label),
                    (
                        *(Cell(format_mean(cell)) if cell else Cell() for cell in values[name]),
                        *(Cell(format_accuracy(cell)) if cell else Cell() for cell in average[name]),
                        *_paper(setting, name, papers),
                    ),
                )
                for name, label in ROWS.items()
                if any(values[name])
            )
        )
    number = int(_is_random(frame).groupby([frame["setting"], frame["model"], frame["corpus"]]).sum().max())
    caption = (
        f"Perplexity, lower is better. Random: mean and standard deviation of {number} selections. Best random was "
        "chosen by these very perplexities, which flatters it."
    )
    protocol = (
        *presentation.protocol,
        Entry(
            "Random",
            "each kind at an equal share of the attention and of the ffn layers, drawn with the seeds 0 to "
            f"{number - 1}, all assembled from the same banks of one calibration seed; the CSV file has every one",
        ),
        Entry("selection.num_random", f"{number}", "20"),
        Entry("Best random", f"the lowest geometric mean over texts: {'; '.join(winners)}"),
    )
    columns = (
        *perplexity_columns(frame, presentation),
        *(Column((f"{ZERO_SHOT} ↑", presentation.label(model))) for model in averaged),
        *paper_columns(frame, presentation),
        *(Column((f"paper: {ZERO_SHOT} ↑", model), muted=True) for column, model in papers if column == ZERO_SHOT),
    )
    caption += f" {PAPERS_NUMBERS}" if papers else ""
    return Table(*HEADINGS["table1"], ("Setting", "Selection"), columns, tuple(groups), caption, protocol)


def _is_random(frame: pandas.DataFrame) -> pandas.Series:
    return frame["method"].str.fullmatch(r"random\d+")


def _perplexities(frame: pandas.DataFrame, name: str, best: dict[str, str], corpus: str, model: str) -> list[float]:
    """List the perplexities behind a row of the table at one text and model: one, or those of all random selections."""
    rows = _rows(frame, name, best=best, model=model)
    return rows.loc[rows["corpus"] == corpus, "perplexity"].tolist()


def _accuracies(frame: pandas.DataFrame, name: str, best: dict[str, str], model: str) -> list[float]:
    """List the zero-shot averages behind a row of the table at one model."""
    return _rows(frame, name, best=best, model=model).drop_duplicates("method")["zero_shot"].tolist()


def _rows(frame: pandas.DataFrame, name: str, best: dict[str, str], model: str) -> pandas.DataFrame:
    rows = frame.loc[frame["model"] == model]
    if name == "random":
        return rows.loc[_is_random(rows)]
    return rows.loc[rows["method"] == (best.get(model) if name == "best_random" else name)]


def _paper(setting: str, name: str, columns: Iterable[tuple[str, str]]) -> list[Cell]:
    """Print the paper's numbers of a row at (column, model) of its own names; full precision stands in every group."""
    cells = []
    for column, model in columns:
        entry = published(
            "table1", str(FULL_PRECISION) if name == FULL else setting, method=name, model=model, column=column
        )
        spread = "" if entry is None or entry.std is None else f" ± {entry.std:.2f}"
        cells.append(Cell() if entry is None else Cell(f"{entry.value:.2f}{spread}"))
    return cells
