"""Figure 2: what rotation gains over affine at each sublayer, against its kurtosis, with their rank correlation."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas

from altq.experiment.kinds import HALVES
from altq.experiment.policies import HeuristicOptions
from altq.report.figure import HALF_NAMES, MARKERS, panels, write_figure
from altq.report.intervals import rank_correlation
from altq.report.places import place_of
from altq.runtime.files import read_json, write_text
from altq.selection.heuristic import kurtosis_scores
from altq.selection.scores import Scores


def write_figure2(statistics: Iterable[Path], scores: Iterable[Path], options: HeuristicOptions, pdf: Path) -> None:
    """Write `pdf`, beside it .png, the points as .csv and their correlations as -correlation.csv."""
    known = {content["model"]: content for content in map(read_json, statistics)}
    frame = pandas.concat([_points(path, known, options) for path in scores], ignore_index=True)
    correlations = correlation_frame(frame)
    write_text(pdf.with_suffix(".csv"), frame.to_csv(index=False, lineterminator="\n"))
    write_text(pdf.with_name(f"{pdf.stem}-correlation.csv"), correlations.to_csv(index=False, lineterminator="\n"))
    _draw(frame, correlations, pdf)


def correlation_frame(points: pandas.DataFrame) -> pandas.DataFrame:
    """Spearman's rank correlation of kurtosis and gain with its 95 % interval, for each model, setting and half."""
    rows = []
    for (model, setting, half), group in points.groupby(["model", "setting", "half"], sort=False):
        found = rank_correlation(group["kurtosis"].tolist(), group["gain"].tolist())
        rows.append([model, setting, half, len(group), *found])
    return pandas.DataFrame(rows, columns=["model", "setting", "half", "num_layers", "rho", "rho_low", "rho_high"])


def _points(path: Path, statistics: Mapping[str, Any], options: HeuristicOptions) -> pandas.DataFrame:
    """A row for each sublayer; gain: by how much of affine's held-out error rotation's is lower, as a log ratio.

    Sublayers without an error, whatever the kind, have no ratio and no row.
    """
    model, setting, seed = place_of(path)
    measured = Scores.read(path)
    if not {"affine", "rotation"} <= set(measured.kinds):
        raise ValueError(f"{path} compares {', '.join(measured.kinds)}; Figure 2 needs affine and rotation among them")
    rows = []
    for offset, half in enumerate(HALVES):
        kurtosis = kurtosis_scores(statistics[model], half, getattr(options, half).score)
        for block, (score, errors) in enumerate(zip(kurtosis, measured.values[offset::2], strict=True)):
            if errors["affine"] == errors["rotation"] == 0:
                continue
            gain = math.log(errors["affine"] / errors["rotation"])
            rows.append([model, setting, seed, half, block, score, errors["affine"], errors["rotation"], gain])
    names = ["model", "setting", "seed", "half", "block", "kurtosis", "error_affine", "error_rotation", "gain"]
    return pandas.DataFrame(rows, columns=names)


def _draw(frame: pandas.DataFrame, correlations: pandas.DataFrame, pdf: Path) -> None:
    groups = list(frame.groupby(["model", "setting"], sort=False))
    correlations = correlations.set_index(["model", "setting", "half"]).sort_index()
    with panels(len(groups), len(HALVES), (3.6, 2.3)) as (figure, axes):
        for line, ((model, setting), rows) in zip(axes, groups):
            for panel, half in zip(line, HALVES):
                points = rows.loc[rows["half"] == half]
                for kind, better in (("rotation", points["gain"] > 0), ("affine", points["gain"] <= 0)):
                    marker, colour = MARKERS[kind]
                    chosen = points.loc[better]
                    panel.scatter(
                        chosen["kurtosis"], 100 * chosen["gain"], marker=marker, color=colour, s=16,
                        label=f"{kind} better ({len(chosen)})",
                    )  # fmt: skip
                panel.axhline(0, color="#999999", linewidth=0.7, zorder=0)
                found = correlations.loc[model, setting, half]
                panel.set_title(
                    f"{HALF_NAMES[half]}, {model} at {setting}\n"
                    f"ρ = {found['rho']:.2f} [{found['rho_low']:.2f}, {found['rho_high']:.2f}]",
                    loc="left",
                )
                panel.set_xlabel("excess kurtosis")
                panel.set_ylabel("gain of rotation, 100 ln(ratio)")
                panel.legend(loc="best", handletextpad=0.2)
        write_figure(figure, pdf)
