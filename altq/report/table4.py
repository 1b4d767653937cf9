"""Table 4: the learned selection against the heuristic: perplexity, agreement, time."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas

from altq.report.accuracy import ZERO_SHOT, format_accuracy, with_zero_shot, zero_shot_models
from altq.report.perplexity import Presentation, format_perplexity, perplexity_frame, read_results, write_table
from altq.report.published import PERPLEXITY_CORPORA, published
from altq.report.selections import calibration_seconds, read_selections, selection_of, selection_seconds
from altq.report.table import ABSENT, Cell, Column, Row, Table
from altq.selection.agreement import agreement

TITLE = "The learned selection (differentiable search) against the heuristic."
PAIR = {"learned": "Learned", "adaptive": "Heuristic"}
PAPERS = {"learned": "search", "adaptive": "adaptive"}
"""What the published Table 4 calls our methods."""


def write_table4(
    results: Iterable[Path],
    zero_shot: Sequence[Path],
    selections: Iterable[Path],
    csv: Path,
    presentation: Presentation,
) -> None:
    """Read results and selections and write `csv`, and beside it the table to read as .md, .tex and .png."""
    frame = with_zero_shot(table4_frame(results, selections, presentation), zero_shot, presentation)
    write_table(frame, wide_table(frame, presentation), csv)


def table4_frame(results: Iterable[Path], selections: Iterable[Path], presentation: Presentation) -> pandas.DataFrame:
    """A row for each perplexity, with seconds of processor time and the agreement of both methods' selections.

    agreement: decisions that are the same, of 2 num_blocks, and how many are expected by chance; agreement_attention,
    agreement_ffn and agreement_blocks (both halves the same): of num_blocks.
    """
    given, read = read_selections(selections), read_results(results)
    frame = perplexity_frame(read, presentation)
    by_place = {tuple(result[name] for name in ("setting", "method", "model", "corpus")): result for result in read}
    added = []
    for row in frame.itertuples():
        result = by_place[row.setting, row.method, row.model, row.corpus]
        learned, heuristic = (
            selection_of(by_place[row.setting, method, row.model, row.corpus], given) for method in PAIR
        )
        agreed = agreement(learned, heuristic)
        added.append(
            {
                "selection_seconds": selection_seconds(result),
                "calibration_seconds": calibration_seconds(result, selection_of(result, given)),
                "num_blocks": agreed.num_blocks,
                "agreement": agreed.decisions,
                "agreement_by_chance": agreed.by_chance,
                **{f"agreement_{half}": count for half, count in agreed.by_half.items()},
                "agreement_blocks": agreed.blocks,
            }
        )
    return frame.join(pandas.DataFrame(added))


def wide_table(frame: pandas.DataFrame, presentation: Presentation) -> Table:
    """A row for each setting and model."""
    corpora = list(frame["corpus"].unique())
    columns = [Column((f"{presentation.label(corpus)} ↓", label)) for corpus in corpora for label in PAIR.values()]
    averaged = bool(zero_shot_models(frame))
    columns += [Column((f"{ZERO_SHOT} ↑", label)) for label in PAIR.values() if averaged]
    columns += [Column(("Agreement", name)) for name in ("all", "by chance", "attention", "ffn", "blocks")]
    columns += [
        Column((heading, label)) for heading in ("Selection, CPU s", "and calibration") for label in PAIR.values()
    ]
    columns += [
        Column((f"paper: {corpus} ↓", label), muted=True) for corpus in PERPLEXITY_CORPORA for label in PAIR.values()
    ]
    columns += [Column((f"paper: {ZERO_SHOT} ↑", label), muted=True) for label in PAIR.values() if averaged]
    columns += [Column(("paper: agreement", "blocks"), muted=True)]
    columns += [Column(("paper: hours", label), muted=True) for label in PAIR.values()]
    groups = [
        tuple(
            Row(
                (setting, presentation.label(model)),
                (*_cells(rows, corpora, averaged), *_paper(setting, _papers_model(model, presentation), averaged)),
            )
            for model, rows in of_setting.groupby("model", sort=False)
        )
        for setting, of_setting in frame.groupby("setting", sort=False)
    ]
    notes = (
        *presentation.notes,
        "Agreement: decisions that are the same, of all, of attention and of ffn, and blocks with both the same. By "
        "chance: of two selections that take each kind as often as these in each half, at random places.",
        "Seconds of processor time. Selection: all that is done before the choice is known (search: the states are not "
        "counted; heuristic: statistics of the weights); and calibration: with that of the kinds that were chosen, each "
        "bank by the share of sublayers that are read from it.",
        "Columns headed “paper” are the paper's own numbers: of the same model where it has it, otherwise of "
        f"{', '.join(presentation.orientation)} for orientation; hours with calibration.",
    )
    return Table("Table 4", TITLE, ("Setting", "Model"), tuple(columns), tuple(groups), notes)


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


def _papers_model(model: str, presentation: Presentation) -> str | None:
    """The paper's model whose numbers stand beside one of ours."""
    return presentation.published_models.get(model, next(iter(presentation.orientation), None))


def _paper(setting: str, model: str | None, averaged: bool) -> list[Cell]:
    """The paper's numbers of a model at a setting."""

    def cell(method: str, column: str, digits: int) -> Cell:
        entry = published("table4", setting, PAPERS[method], model, column)
        return Cell() if entry is None else Cell(f"{entry.value:.{digits}f}")

    perplexities = [cell(method, corpus, 2) for corpus in PERPLEXITY_CORPORA for method in PAIR]
    accuracies = [cell(method, ZERO_SHOT, 2) for method in PAIR if averaged]
    agreeing, total = (cell("adaptive", column, 0).text for column in ("layers agreeing", "layers"))
    agreed = Cell() if total == ABSENT else Cell(f"{agreeing}/{total}")
    return [*perplexities, *accuracies, agreed, *(cell(method, "hours", 1) for method in PAIR)]
