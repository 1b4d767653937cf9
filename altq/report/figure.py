"""The style of the figures: how kinds are drawn, panels, and files that are the same bytes for the same data."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from altq.report.presentation import Heading, Presentation
from altq.report.protocol_table import write_protocol
from altq.runtime.files import atomic

MARKERS = {
    "rotation": ("o", "#1f5fa8"),
    "affine": ("s", "#c8352b"),
    "balance": ("^", "#2c8a4b"),
    "hadamard": ("D", "#8a5fb0"),
    "scaling": ("v", "#b5781e"),
    "identity": ("x", "#6b6b6b"),
}
"""Marker and colour of a kind; the first two are the paper's (Figure 1)."""

HALF_NAMES = {"attention": "Attention", "ffn": "FFN"}
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that a figure is the same everywhere
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.hashsalt": "altq",
}
DOTS_PER_INCH = 200
_PLACE = re.compile(r".*/(?P<model>[^/]+)/(?P<setting>W\d+A\d+K\d+V\d+)/seed(?P<seed>\d+)/.+")


def place_of(path: Path) -> tuple[str, str, int]:
    """Read (model, setting, seed) from the path <model>/<setting>/seed<k>/... of a selection or of scores.

    ValueError for a path that does not say them.
    """
    match = _PLACE.fullmatch(path.absolute().as_posix())
    if not match:
        raise ValueError(f"{path} is not of the form <model>/<setting>/seed<k>/..., which says what it is of")
    return match["model"], match["setting"], int(match["seed"])


@contextmanager
def panels(rows: int, columns: int, size: tuple[float, float]) -> Iterator[tuple[Figure, list[list[Axes]]]]:
    """Make a figure of panels, each `size` (width, height) in inches, in the common style."""
    with rc_context(STYLE):
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        yield figure, figure.subplots(rows, columns, squeeze=False).tolist()


def number_blocks(axes: Axes) -> None:
    """Label the horizontal axis as that of blocks, which have whole numbers."""
    axes.set_xlabel("block")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def write_figure(figure: Figure, path: Path, heading: Heading, presentation: Presentation) -> None:
    """Write `path`, a PDF file, the same as PNG beside it, both without a date, and the protocol of both."""
    write_protocol(str(heading), presentation.protocol, path)
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None, "Producer": None})):
        with atomic(path.with_suffix(suffix)) as partial, open(partial, "wb") as file:
            figure.savefig(file, format=suffix[1:], dpi=DOTS_PER_INCH, metadata=metadata)


def statistics_of(
    path: Path, statistics: Mapping[str, Mapping[str, Any]], model: str, num_blocks: int
) -> Mapping[str, Any]:
    """The weight statistics of the model that a file is of; ValueError where they are not given, or of another size."""
    if model not in statistics:
        raise ValueError(
            f"{path} is of {model}, whose statistics are not given (given: {', '.join(statistics)}); give them"
        )
    if (seen := statistics[model]["num_blocks"]) != num_blocks:
        raise ValueError(
            f"{path} has {num_blocks} blocks, but the statistics of {model} have {seen}; make both of one model"
        )
    return statistics[model]
