"""What figures share: how kinds are drawn, and files that are the same bytes for the same data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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


@contextmanager
def panels(rows: int, columns: int, size: tuple[float, float]) -> Iterator[tuple[Figure, list[list[Axes]]]]:
    """A figure of panels, each `size` (width, height) in inches, in the common style."""
    with rc_context(STYLE):
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        yield figure, figure.subplots(rows, columns, squeeze=False).tolist()


def write_figure(figure: Figure, path: Path) -> None:
    """Write `path`, a PDF file, and the same as PNG beside it, both without a date."""
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None, "Producer": None})):
        with atomic(path.with_suffix(suffix)) as partial, open(partial, "wb") as file:
            figure.savefig(file, format=suffix[1:], dpi=DOTS_PER_INCH, metadata=metadata)
