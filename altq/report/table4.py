"""Table 4: the learned selection against the heuristic: perplexity, agreement, time."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas

from altq.report.accuracy import ZERO_SHOT, format_accuracy, with_zero_shot, zero_shot_models
from altq.report.perplexity import PAPERS_NUMBERS, format_perplexity, perplexity_frame, read_results
from altq.report.presentation import ABSENT, HEADINGS, Entry, Presentation
from altq.report.published import PERPLEXITY_CORPORA, published
from altq.report.selections import calibration_seconds, read_selections, selection_of, selection_seconds
from altq.report.table import Cell, Column, Row, Table
from altq.report.table_files import write_table
from altq.selection.agreement import agreement

PAIR = {"learned": "Learned", "adaptive": "Heuristic"}
PAPERS = {"learned": "search", "adaptive": "adaptive"}
"""The names of our methods in the published Table 4."""
READING = (
    Entry(
        "Agreement",
        "decisions that are the same, of all, of attention and of ffn, and blocks with both halves the same",
        "layers that are the same",
    ),
    Entry("By chance", "of two selections that take each kind as often as these in each half, at random places"),
    Entry(
        "Selection",
        "processor seconds of all that is done before the choice (search: the states are not counted; "
        "heuristic: statistics of the weights)",
        "hours with calibration",
    ),
    Entry(
        "and calibration",
        "with the processor seconds of the kinds that were chosen, each bank by the share of sublayers read from it",
        "hours with calibration",
    ),
)


def write_table4(
    result_files: Iterable[Path],
    zero_shot: Sequence[Path],
    selection_files: Iterable[Path],
    csv: Path,
    presentation: Presentation,
) -> None:
    """Read results and selections; write `csv`, and beside it the table as .md, .tex and .png with its protocol."""
    frame = with_zero_shot(table4_frame(result_files, selection_files, presentation), zero_shot, presentation)
    write_table(frame, wide_table(frame, presentation), csv)


def table4_frame(
    result_files: Iterable[Path], selection_files: Iterable[Path], presentation: Presentation
) -> pandas.DataFrame:
    """Tabulate perplexities with seconds of processor time and the agreement of both methods' selections.

    agreement: decisions that are the same, of 2 num_blocks, and how many are expected by chance; agreement_attention,
    agreement_ffn and agreement_blocks (both halves the same): of num_blocks.
    """
    selections, results = read_selections(selection_files), read_results(result_files)
    frame = perplexity_frame(results, presentation)
    by_place = {tuple(result[name] for name in ("setting", "method", "model", "corpus")): result for result in results}
    added = []
    for row in frame.itertuples():
        result = by_place[row.setting, row.method, row.model, row.corpus]
        learned, heuristic = (
            selection_of(by_place[row.setting, method, row.model, row.corpus], selections) for method in PAIR
        )
        agreed = agreement(learned, heuristic)
        added.append(
            {
                "selection_seconds": selection_seconds(result),
                "calibration_seconds": calibration_seconds(result, selection_of(result, selections)),
                "num_blocks": agreed.num_blocks,
                "agreement": agreed.decisions,
                "agreement_by_chance": agreed.by_chance,
                **{f"agreement_{half}": count for half, count in agreed.by_half.items()},
                "agreement_blocks": agreed.blocks,
            }
        )
    return frame.join(pandas.DataFrame(added))


def wide_table(frame: pandas.DataFrame, presentation: Presentation) -> Table:
    """Lay out a row for each setting and model; the paper's columns are those that say something beside some row."""
    corpora = list(frame["corpus"].unique())
    columns = [Column((f"{presentation.label(corpus)} ↓", label)) for corpus in corpora for label in PAIR.values()]
    averaged = bool(zero_shot_models(frame))
    columns += [Column((f"{ZERO_SHOT} ↑", label)) for label in PAIR.values() if averaged]
    columns += [Column(("Agreement", name)) for name in ("all", "by chance", "attention", "ffn", "blocks")]
    columns += [
        Column((heading, label)) for heading in ("Selection, CPU s", "and calibration") for label in PAIR.values()
    ]
    papers = [
        *(
            Column((f"paper: {corpus} ↓", label), muted=True)
            for corpus in PERPLEXITY_CORPORA
            for label in PAIR.values()
        ),
        *(Column((f"paper: {ZERO_SHOT} ↑", label), muted=True) for label in PAIR.values() if averaged),
        Column(("paper: agreement", "blocks"), muted=True),
        *(Column(("paper: hours", label), muted=True) for label in PAIR.values()),
    ]
    printed = {
        (setting, model): _paper(setting, presentation.published_models.get(model), averaged)
        for setting, model in frame[["setting", "model"]].drop_duplicates().itertuples(index=False)
    }
    numbered = [i for i in range(len(papers)) if any(cells[i].text != ABSENT for cells in printed.values())]
    groups = [
        tuple(
            Row(
                (setting, presentation.label(model)),
                (*_cells(rows, corpora, averaged), *(printed[setting, model][i] for i in numbered)),
            )
            for model, rows in of_setting.groupby("model", sort=False)
        )
        for setting, of_setting in frame.groupby("setting", sort=False)
    ]
    caption = "Agreement: decisions that are the same, and by chance. Seconds of processor time."
    caption += f" {PAPERS_NUMBERS}" if numbered else ""
    columns += [papers[i] for i in numbered]
    protocol = (*presentation.protocol, *READING)
    return Table(*HEADINGS["table4"], ("Setting", "Model"), tuple(columns), tuple(groups), caption, protocol)


def _cells(rows: pandas.DataFrame, corpora: Sequence[str], averaged: bool) -> list[Cell]:
    of = {(row.corpus, row.method): row for row in rows.itertuples()}
    first = [of[corpora[0], method] for method in PAIR]
    texts = [format_perplexity(of[corpus, method].perplexity) for corpus in corpora for method in PAIR]
    texts += [format_accuracy([row.zero_shot]) for row in first if averaged]
    n = first[0].num_blocks
    for name in ("agreement", "agreement_by_chance", "agreement_attention", "agreement_ffn", "agreement_blocks"):
        count, total = getattr(first[0], name), n if name.endswith(("attention", "ffn", "blocks")) else 2 * n
        texts.append(f"{count:g}/{total} ({100 * count / total:.1f} %)")
    texts += [f"{row.selection_seconds:.0f}" for row in first]
    texts += [f"{row.selection_seconds + row.calibration_seconds:.0f}" for row in first]
    return [Cell(text) for text in texts]


def _paper(setting: str, model: str | None, averaged: bool) -> list[Cell]:
    """Print the paper's numbers of one of its models at a setting."""

    def cell(method: str, column: str, digits: int) -> Cell:
        entry = published("table4", setting, method=PAPERS[method], model=model, column=column)
        return Cell() if entry is None else Cell(f"{entry.value:.{digits}f}")

    perplexities = [cell(method, corpus, 2) for corpus in PERPLEXITY_CORPORA for method in PAIR]
    accuracies = [cell(method, ZERO_SHOT, 2) for method in PAIR if averaged]
    agreeing, total = (cell("adaptive", column, 0).text for column in ("layers agreeing", "layers"))
    agreed = Cell() if total == ABSENT else Cell(f"{agreeing}/{total}")
    return [*perplexities, *accuracies, agreed, *(cell(method, "hours", 1) for method in PAIR)]
