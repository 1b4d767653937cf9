"""Table 7: every policy on every setting, with intervals over calibration seeds and paired differences."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas

from altq.experiment.methods import method_of
from altq.experiment.study import REFERENCE
from altq.report.accuracy import ZERO_SHOT, format_accuracy, with_zero_shot, zero_shot_models
from altq.report.intervals import Interval, mean_interval
from altq.report.perplexity import (
    PAPERS_NUMBERS,
    format_perplexity,
    paper_cells,
    paper_columns,
    paper_places,
    perplexity_frame,
    places_of,
    read_results,
)
from altq.report.presentation import HEADINGS, Entry, Presentation, numeral
from altq.report.selections import selection_seconds
from altq.report.table import Cell, Column, Row, Table
from altq.report.table_files import write_table

JUDGED = "best_random"
COLUMNS = (
    "setting", "method", "model", "corpus", "weights", "num_seeds", "perplexity", "perplexity_low", "perplexity_high",
    "difference", "difference_low", "difference_high", "better", "selection_seconds", "published",
)  # fmt: skip
READING = (
    Entry("Perplexity", "the geometric mean over seeds; Student's t over seeds of the mean negative log-likelihood"),
    Entry(
        "Difference",
        "of the perplexity to that of affine everywhere with the same seed on the same windows, paired; negative is "
        "better; no correction for the number of comparisons",
    ),
    Entry("Seeds", "of calibration; the test text is the same in all"),
    Entry(
        "Selection",
        "processor seconds of all that is done before the choice, states not counted; next to none where "
        "nothing is looked at",
    ),
    Entry(
        "Best random",
        "the best of Table 1's random selections, chosen by these very perplexities at the experiment's first seed",
    ),
)
ZERO_SHOT_COLUMNS = ("zero_shot", "zero_shot_low", "zero_shot_high")


def write_table7(results: Iterable[Path], zero_shot: Sequence[Path], csv: Path, presentation: Presentation) -> None:
    """Read the results of all seeds; write `csv`, and beside it the table as .md, .tex and .png with its protocol."""
    frame = table7_frame(read_results(results), presentation, zero_shot)
    write_table(frame, wide_table(frame, presentation), csv)


def table7_frame(
    results: Sequence[Mapping[str, Any]], presentation: Presentation, zero_shot: Sequence[Path] = ()
) -> pandas.DataFrame:
    """Tabulate each setting, method, model and text over the seeds, with paired differences to all-affine.

    perplexity: the geometric mean over seeds with its 95 % interval. difference: of the mean negative log-likelihood
    (nats a token) to all-affine of the same seed and windows, paired, with its interval; empty for all-affine itself.
    better: -1, 0 or 1, worse, undecided or better than it, by whether that interval excludes zero; empty for
    all-affine, and for best_random, which was chosen by these very perplexities. selection_seconds:
    processor seconds, the mean over seeds. zero_shot: the average accuracy, the mean over seeds with its interval,
    where it was measured. ValueError where a seed has no all-affine result to be paired with.
    """
    tidy = with_zero_shot(perplexity_frame(results, presentation), zero_shot, presentation)
    seconds = {_place(result): selection_seconds(result) for result in results}
    rows = []
    key = ["setting", "method", "model", "corpus", "weights"]
    for place, of_place in tidy.groupby(key, sort=False):
        setting, method, model, corpus, weights = place
        reference = tidy.loc[
            (tidy["setting"] == setting) & (tidy["method"] == REFERENCE) & (tidy["model"] == model)
            & (tidy["corpus"] == corpus) & (tidy["weights"] == weights)
        ].set_index("seed")["perplexity"]  # fmt: skip
        logs = of_place.set_index("seed")["perplexity"].map(math.log)
        if set(logs.index) != set(reference.index):
            raise ValueError(
                f"{method} at {setting} has the seeds {sorted(logs.index)}, {REFERENCE} {sorted(reference.index)}; "
                "differences are paired by seed"
            )
        row = dict(zip(key, place, strict=True)) | {"num_seeds": len(logs), "published": of_place["published"].iloc[0]}
        row |= dict(zip(COLUMNS[6:9], map(math.exp, mean_interval(logs.tolist())), strict=True))
        if method != REFERENCE:
            difference = mean_interval([logs[seed] - math.log(reference[seed]) for seed in logs.index])
            row |= dict(zip(COLUMNS[9:12], difference, strict=True))
            row["better"] = None if method == JUDGED else _verdict(difference)
        spent = [seconds[(*place, seed)] for seed in logs.index]
        row["selection_seconds"] = math.fsum(spent) / len(spent)
        if zero_shot:
            row |= dict(zip(ZERO_SHOT_COLUMNS, mean_interval(of_place["zero_shot"].tolist()), strict=True))
        rows.append(row)
    columns = [*COLUMNS, *(ZERO_SHOT_COLUMNS if zero_shot else ())]
    return pandas.DataFrame(rows, columns=columns).astype({"better": "Int64"})


def wide_table(frame: pandas.DataFrame, presentation: Presentation) -> Table:
    """Lay out a group of rows for each setting; a difference whose interval excludes zero is said and bold."""
    places = places_of(frame)
    columns = []
    for corpus, model in places:
        heading = f"{presentation.label(corpus)}, {presentation.label(model)}"
        columns += [Column((heading, "perplexity ↓")), Column((heading, "difference to affine"))]
    models, averaged = list(frame["model"].unique()), zero_shot_models(frame)
    columns += [Column((f"{ZERO_SHOT} ↑", presentation.label(model))) for model in averaged]
    columns += [Column(("Selection, CPU s", presentation.label(model))) for model in models]
    papers = paper_places(frame)
    columns += paper_columns(frame, presentation)
    groups = []
    for setting, of_setting in frame.groupby("setting", sort=False):
        rows = []
        for method, of_method in of_setting.groupby("method", sort=False):
            cells = []
            for corpus, model in places:
                row = of_method.loc[(of_method["corpus"] == corpus) & (of_method["model"] == model)].iloc[0]
                cells += [Cell(_perplexity(row)), _difference(row)]
            cells += [Cell(_accuracy(of_method.loc[of_method["model"] == model].iloc[0])) for model in averaged]
            seconds = of_method.groupby("model")["selection_seconds"].mean()
            cells += [Cell(f"{seconds[model]:.0f}") for model in models]
            cells += paper_cells(of_method, papers)
            rows.append(Row((setting, method_of(method).label), tuple(cells)))
        groups.append(tuple(rows))
    seeds = int(frame["num_seeds"].min())
    caption = (
        f"Means over {seeds} calibration seeds with their 95 % intervals. Bold, better or worse: the interval of the "
        "paired difference excludes zero."
    )
    if JUDGED in set(frame["method"]):
        caption += " Of best random nothing is said, since these perplexities chose it."
    caption += f" {PAPERS_NUMBERS}" if papers else ""
    protocol = (*presentation.protocol, *READING)
    return Table(*HEADINGS["table7"], ("Setting", "Policy"), tuple(columns), tuple(groups), caption, protocol)


def _place(result: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(result[name] for name in ("setting", "method", "model", "corpus", "weights", "seed"))


def _verdict(difference: Interval) -> int:
    return 0 if not difference.excludes_zero else 1 if difference.value < 0 else -1


def _perplexity(row: pandas.Series) -> str:
    low, high = (format_perplexity(row[f"perplexity_{end}"], like=row["perplexity"]) for end in ("low", "high"))
    return f"{format_perplexity(row['perplexity'])} [{low}, {high}]"


def _accuracy(row: pandas.Series) -> str:
    value, low, high = (format_accuracy([row[name]]) for name in ZERO_SHOT_COLUMNS)
    return f"{value} [{low}, {high}]"


def _difference(row: pandas.Series) -> Cell:
    """Print a difference in per cent of the perplexity, bold and in words where its interval excludes zero."""
    if pandas.isna(row["difference"]):
        return Cell()
    value, low, high = (numeral(100 * math.expm1(row[name]), "+.1f") for name in COLUMNS[9:12])
    word = "" if pandas.isna(row["better"]) else {1: "better", 0: "", -1: "worse"}[int(row["better"])]
    return Cell(f"{value} % [{low}, {high}] {word}".rstrip(), bold=bool(word))
