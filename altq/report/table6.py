"""Table 6: the heuristic's options: beta and L of both halves, and beta by z-mass (the paper's missing appendix)."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas

from altq.experiment.kinds import HALVES
from altq.experiment.methods import method_of_policy
from altq.experiment.policies import Grid
from altq.report.intervals import mark_best
from altq.report.perplexity import format_perplexity, read_results, window_interval
from altq.report.presentation import HEADINGS, Entry, Presentation
from altq.report.selections import read_selections, selection_of
from altq.report.table import Cell, Column, Row, Table
from altq.report.table_files import write_table
from altq.runtime.documents import Record, described
from altq.selection.agreement import agreement
from altq.selection.selection import Selection, read_distinct

COLUMNS = (
    "setting", "model", "point", "corpus", "perplexity", "perplexity_low", "perplexity_high", "weights", "seed",
    "beta_rule", "beta_attention", "beta_ffn", "num_rotation_attention", "num_rotation_ffn", "num_blocks", "agreement",
    "same_as",
)  # fmt: skip
LEARNED = "learned"
READING = (
    Entry(
        "β",
        "share of the L rotated layers that comes from the upper tail of the kurtosis, attention / ffn, as it came out",
    ),
    Entry("L", "rotated layers of each half, attention / ffn"),
    Entry("Agreement", "decisions that the learned selection has alike"),
    Entry("Points that select alike", "evaluated once, under the name of the first"),
    Entry("The paper", "announces this ablation for an appendix that its text does not have"),
)


def write_table6(
    results: Iterable[Path], selections: Iterable[Path], distinct: Iterable[Path], grid: Grid, csv: Path,
    presentation: Presentation,
) -> None:  # fmt: skip
    """Write `csv`, a row for each point and text, and beside it the table as .md, .tex and .png with its protocol."""
    same = {path.parent.name: read_distinct(path) for path in distinct}
    frame = table6_frame(read_results(results), read_selections(selections), same=same, grid=grid)
    write_table(frame, wide_table(frame, presentation), csv)


def table6_frame(
    results: Sequence[Mapping[str, Any]],
    selections: Mapping[str, Selection],
    same: Mapping[str, Mapping[str, str]],
    grid: Grid,
) -> pandas.DataFrame:
    """Tabulate each setting, model, point and text; last of each setting and model comes the learned selection.

    same: by model, point -> the first selection that is the same, under whose name it was evaluated. beta and
    num_rotation (L) are those that the selection came out with; agreement counts the decisions, of 2 num_blocks, that
    the learned selection has alike.
    """
    by_method = {(r["setting"], r["model"], r["method"], r["corpus"]): r for r in results}
    of_point = {(selection.model, Path(path).stem): selection for path, selection in selections.items()}
    rows = []
    for (setting, model, method, corpus), learned in by_method.items():
        if method != LEARNED:
            continue
        reference = selection_of(learned, selections)
        for point, options in grid.named.items():
            first = _given(_given(same, model, "what `altq distinct` wrote of"), point, "the first like")
            result = _given(by_method, (setting, model, method_of_policy(first), corpus), "the result of")
            selection = _given(of_point, (model, point), "the selection")
            halves = {
                half: described(
                    selection.thresholds.get(half), _Tails, name=f"selection {point}, {half}", remedy="select again"
                )
                for half in HALVES
            }
            rows.append(
                {
                    **{name: result[name] for name in COLUMNS if name in result},
                    "point": point,
                    "beta_rule": options.attention.beta_rule,
                    **{f"beta_{half}": of_half.beta for half, of_half in halves.items()},
                    **{f"num_rotation_{half}": of_half.num_rotation for half, of_half in halves.items()},
                    "num_blocks": selection.num_blocks,
                    "agreement": agreement(selection, reference).decisions,
                    "same_as": "" if first == point else first,
                }
            )
        kinds = [reference.kinds[offset::2] for offset in range(len(HALVES))]
        rows.append(
            {
                **{name: learned[name] for name in COLUMNS if name in learned},
                "point": LEARNED,
                **{
                    f"num_rotation_{half}": of_half.count("rotation")
                    for half, of_half in zip(HALVES, kinds, strict=True)
                },
                "num_blocks": reference.num_blocks,
                "agreement": 2 * reference.num_blocks,
                "same_as": "",
            }
        )
    return pandas.DataFrame(rows, columns=list(COLUMNS)).astype({"beta_rule": object})


class _Tails(Record):
    """What a heuristic's selection came out with, of one half."""

    beta: float
    num_rotation: int


def _given(known: Mapping[Any, Any], key: Any, what: str) -> Any:
    if key not in known:
        name = ", ".join(key) if isinstance(key, tuple) else key
        raise ValueError(f"{what} {name} is not given, which Table 6 needs")
    return known[key]


def wide_table(frame: pandas.DataFrame, presentation: Presentation) -> Table:
    """Lay out a group of rows for each setting and model: a row for each point, then the learned selection."""
    corpora = list(frame["corpus"].unique())
    columns = [Column((f"{presentation.label(corpus)} ↓",)) for corpus in corpora]
    columns += [Column(("Agreement with learned",))]
    groups = []
    for (setting, model), rows in frame.groupby(["setting", "model"], sort=False):
        points = [of_point for _, of_point in rows.groupby("point", sort=False)]
        measured = [_column(points, corpus) for corpus in corpora]
        groups.append(
            tuple(
                Row(
                    (setting, presentation.label(model), *_stub(of_point.iloc[0])),
                    (*cells, _agreement(of_point.iloc[0])),
                )
                for of_point, cells in zip(points, zip(*measured, strict=True), strict=True)
            )
        )
    caption = (
        "Perplexity, lower is better; agreement with the learned selection. Bold: the best where its 95 % interval "
        "over windows is clear of all others."
    )
    protocol = (*presentation.protocol, *READING)
    return Table(*HEADINGS["table6"], ("Setting", "Model", "β", "L"), tuple(columns), tuple(groups), caption, protocol)


def _stub(row: pandas.Series) -> tuple[str, str]:
    rotated = f"{row['num_rotation_attention']} / {row['num_rotation_ffn']}"
    if row["point"] == LEARNED:
        return "learned", rotated
    rule = " (z-mass)" if row["beta_rule"] == "z_mass" else ""
    betas = (f"{round(row[f'beta_{half}'], 2):g}" for half in HALVES)
    return f"{' / '.join(betas)}{rule}", rotated


def _column(points: Sequence[pandas.DataFrame], corpus: str) -> list[Cell]:
    """Print the perplexity of each point on one text, with the best marked."""
    at_corpus = [rows.loc[rows["corpus"] == corpus] for rows in points]
    cells = [Cell(format_perplexity(rows["perplexity"].iloc[0])) for rows in at_corpus]
    return mark_best(cells, [window_interval(rows) for rows in at_corpus])


def _agreement(row: pandas.Series) -> Cell:
    total = 2 * row["num_blocks"]
    return Cell(f"{row['agreement']}/{total} ({100 * row['agreement'] / total:.1f} %)")
