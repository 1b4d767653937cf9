"""Figure 2: the gain of rotation over affine at each sublayer, against its kurtosis, with their rank correlation."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas

from altq.experiment.kinds import HALVES
from altq.experiment.policies import HeuristicOptions
from altq.report.figure import HALF_NAMES, MARKERS, panels, place_of, statistics_of, write_figure
from altq.report.intervals import rank_correlation
from altq.report.presentation import HEADINGS, Presentation, numeral
from altq.runtime.files import write_text
from altq.selection.description import read_statistics
from altq.selection.heuristic import kurtosis_scores
from altq.selection.scores import Scores


def write_figure2(
    statistics: Iterable[Path],
    scores: Iterable[Path],
    options: HeuristicOptions,
    pdf: Path,
    presentation: Presentation,
) -> None:
    """Write `pdf` and beside it .png, the points as .csv, their correlations as -correlation.csv and the protocol."""
    by_model = {content["model"]: content for content in map(read_statistics, statistics)}
    frame = pandas.concat([_points(path, by_model, options) for path in scores], ignore_index=True)
    correlations = correlation_frame(frame)
    write_text(pdf.with_suffix(".csv"), frame.to_csv(index=False, lineterminator="\n"))
    write_text(pdf.with_name(f"{pdf.stem}-correlation.csv"), correlations.to_csv(index=False, lineterminator="\n"))
    _draw(frame, correlations, pdf, presentation)


def correlation_frame(points: pandas.DataFrame) -> pandas.DataFrame:
    """Correlate kurtosis and gain by rank (Spearman), with 95 % intervals, for each model, setting and half."""
    rows = []
    for (model, setting, half), group in points.groupby(["model", "setting", "half"], sort=False):
        correlation = rank_correlation(group["kurtosis"].tolist(), group["gain"].tolist())
        rows.append([model, setting, half, len(group), *correlation])
    return pandas.DataFrame(rows, columns=["model", "setting", "half", "num_layers", "rho", "rho_low", "rho_high"])


def _points(path: Path, statistics: Mapping[str, Any], options: HeuristicOptions) -> pandas.DataFrame:
    """Tabulate each sublayer; gain: the log ratio of affine's held-out error to rotation's, above 0 for rotation.

    Sublayers without an error, whatever the kind, have no ratio and no row.
    """
    model, setting, seed = place_of(path)
    scores = Scores.read(path)
    if not {"affine", "rotation"} <= set(scores.kinds):
        raise ValueError(f"{path} compares {', '.join(scores.kinds)}; Figure 2 needs affine and rotation among them")
    measured = statistics_of(path, statistics, model=model, num_blocks=len(scores.values) // 2)
    rows = []
    for offset, half in enumerate(HALVES):
        kurtosis = kurtosis_scores(measured, half, getattr(options, half).score)
        for block, (score, errors) in enumerate(zip(kurtosis, scores.values[offset::2], strict=True)):
            if errors["affine"] == errors["rotation"] == 0:
                continue
            if not (errors["affine"] > 0 and errors["rotation"] > 0):
                raise ValueError(
                    f"{path} has an error that is not positive, of which no ratio can be had; measure again"
                )
            gain = math.log(errors["affine"] / errors["rotation"])
            rows.append([model, setting, seed, half, block, score, errors["affine"], errors["rotation"], gain])
    names = ["model", "setting", "seed", "half", "block", "kurtosis", "error_affine", "error_rotation", "gain"]
    return pandas.DataFrame(rows, columns=names)


def _draw(frame: pandas.DataFrame, correlations: pandas.DataFrame, pdf: Path, presentation: Presentation) -> None:
    groups = list(frame.groupby(["model", "setting"], sort=False))
    correlations = correlations.set_index(["model", "setting", "half"]).sort_index()
    with panels(len(groups), len(HALVES), (3.6, 2.3)) as (figure, axes):
        for line, ((model, setting), rows) in zip(axes, groups, strict=True):
            for panel, half in zip(line, HALVES, strict=True):
                points = rows.loc[rows["half"] == half]
                for kind, better in (("rotation", points["gain"] > 0), ("affine", points["gain"] <= 0)):
                    marker, colour = MARKERS[kind]
                    chosen = points.loc[better]
                    if len(chosen):
                        panel.scatter(
                            chosen["kurtosis"], 100 * chosen["gain"], marker=marker, color=colour, s=16,
                            label=f"{kind} better ({len(chosen)})",
                        )  # fmt: skip
                panel.axhline(0, color="#999999", linewidth=0.7, zorder=0)
                correlation = correlations.loc[model, setting, half]
                rho, low, high = (numeral(correlation[name], ".2f") for name in ("rho", "rho_low", "rho_high"))
                panel.set_title(
                    f"{HALF_NAMES[half]}, {presentation.label(model)} at {setting}\nρ = {rho} [{low}, {high}]",
                    loc="left",
                )
                panel.set_xlabel("excess kurtosis")
                panel.set_ylabel("gain of rotation, 100 ln(ratio)")
                panel.legend(loc="best", handletextpad=0.2)
        write_figure(figure, pdf, heading=HEADINGS["figure2"], presentation=presentation)
