"""Figure 1: kurtosis of each layer, with the kind that the differentiable search chose."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas

from altq.experiment.kinds import HALVES
from altq.experiment.policies import HeuristicOptions
from altq.report.figure import HALF_NAMES, MARKERS, number_blocks, panels, place_of, statistics_of, write_figure
from altq.report.presentation import HEADINGS, Presentation
from altq.runtime.files import write_text
from altq.selection.description import read_statistics
from altq.selection.heuristic import kurtosis_scores
from altq.selection.selection import Selection


def write_figure1(
    statistics: Iterable[Path],
    selections: Iterable[Path],
    options: HeuristicOptions,
    pdf: Path,
    presentation: Presentation,
) -> None:
    """Write `pdf`, beside it .png, the points as .csv and the protocol; a row of panels for each model and setting."""
    by_model = {content["model"]: content for content in map(read_statistics, statistics)}
    frame = pandas.concat([_points(path, by_model, options) for path in selections], ignore_index=True)
    write_text(pdf.with_suffix(".csv"), frame.to_csv(index=False, lineterminator="\n"))
    _draw(frame, pdf, presentation)


def _points(path: Path, statistics: Mapping[str, Any], options: HeuristicOptions) -> pandas.DataFrame:
    """Tabulate each sublayer: its kurtosis score, as the heuristic's options say, and the kind that was chosen."""
    model, setting, seed = place_of(path)
    selection = Selection.read(path)
    measured = statistics_of(path, statistics, model=model, num_blocks=selection.num_blocks)
    scores = {h: kurtosis_scores(measured, h, getattr(options, h).score) for h in HALVES}
    rows = [
        {"model": model, "setting": setting, "seed": seed, "half": decision.half, "block": decision.block,
         "kurtosis": scores[decision.half][decision.block], "kind": decision.kind}
        for decision in selection.decisions
    ]  # fmt: skip
    return pandas.DataFrame(rows)


def _draw(frame: pandas.DataFrame, pdf: Path, presentation: Presentation) -> None:
    groups = list(frame.groupby(["model", "setting"], sort=False))
    with panels(len(groups), len(HALVES), (3.6, 2.3)) as (figure, axes):
        for line, ((model, setting), rows) in zip(axes, groups, strict=True):
            for panel, half in zip(line, HALVES, strict=True):
                points = rows.loc[rows["half"] == half]
                panel.plot(points["block"], points["kurtosis"], color="#bbbbbb", linewidth=0.8, zorder=1)
                for kind, chosen in points.groupby("kind"):
                    marker, colour = MARKERS[kind]
                    panel.scatter(
                        chosen["block"], chosen["kurtosis"], marker=marker, color=colour, s=16, zorder=2,
                        label=f"{kind} ({len(chosen)})",
                    )  # fmt: skip
                panel.set_title(f"{HALF_NAMES[half]}, {presentation.label(model)} at {setting}", loc="left")
                number_blocks(panel)
                panel.set_ylabel("excess kurtosis")
                panel.legend(loc="best", handletextpad=0.2)
        write_figure(figure, pdf, heading=HEADINGS["figure1"], presentation=presentation)
