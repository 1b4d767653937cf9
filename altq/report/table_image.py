"""A wide table as an image, set like a printed one: measured text, horizontal rules only."""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from altq.report.table import Table
from altq.runtime.files import atomic

# Points, 72 to an inch.
FONT_SIZE = 10.5
CAPTION_SIZE = 8.5
HEADING_SIZE = 11.5
LINE_HEIGHT = 18.0
CAPTION_HEIGHT = 12.0
HEADING_HEIGHT = 16.0
COLUMN_GAP = 20.0
MARGIN = 18.0
GROUP_SPACE = 7.0
MIN_TEXT_WIDTH = 560.0
DOTS_PER_INCH = 200
FAMILY = "DejaVu Sans"  # comes with matplotlib, so that the image is the same everywhere
INK, MUTED, RULE = "#1a1a1a", "#7d7d7d", "#9a9a9a"


def write_image(table: Table, path: str | Path, protocol: str) -> None:
    """Write the table, naming the file `protocol`, as PNG without metadata: the same table gives the same bytes."""
    figure = _Layout(table, protocol).draw()
    # Unhinted text is as wide as the layout measured it, at any resolution.
    with rc_context({"text.hinting": "none"}), atomic(path) as partial, open(partial, "wb") as file:
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})


class _Layout:
    """Positions in points, the origin at the top left."""

    def __init__(self, table: Table, protocol: str) -> None:
        self.table = table
        num_stubs = len(table.stub)
        stubs = (table.stub, *(row.stub for row in table.rows))
        stub_widths = [max(_width(stub[i]) for stub in stubs) for i in range(num_stubs)]
        widths = [
            max(_width(column.headings[-1]), *(_width(row.cells[i].text, bold=row.cells[i].bold) for row in table.rows))
            for i, column in enumerate(table.columns)
        ]
        for level in range(table.num_levels - 1):
            for span in table.spans(level):
                members = range(span.first, span.last + 1)
                missing = _width(span.text) - sum(widths[i] for i in members) - COLUMN_GAP * (len(members) - 1)
                for i in members:
                    widths[i] += max(0.0, missing) / len(members)
        edge = MARGIN
        self.stub_lefts = []
        for width in stub_widths:
            self.stub_lefts.append(edge)
            edge += width + COLUMN_GAP
        self.lefts, self.rights = [], []
        for width in widths:
            self.lefts.append(edge)
            edge += width
            self.rights.append(edge)
            edge += COLUMN_GAP
        self.right = self.rights[-1]
        text_width = max(self.right - MARGIN, MIN_TEXT_WIDTH)  # words may be wider than a narrow table
        self.width = text_width + 2 * MARGIN
        self.heading = _wrap(table.heading, HEADING_SIZE, text_width)
        self.caption = _wrap(table.caption_beside(protocol), CAPTION_SIZE, text_width)
        self.height = (
            2 * MARGIN
            + len(self.heading) * HEADING_HEIGHT
            + (table.num_levels + len(table.rows)) * LINE_HEIGHT
            + (2 * len(table.groups) + 4) * GROUP_SPACE
            + len(self.caption) * CAPTION_HEIGHT
        )

    def draw(self) -> Figure:
        figure = Figure(figsize=(self.width / 72, self.height / 72), facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, self.width), ylim=(self.height, 0))
        axes.set_axis_off()
        y = MARGIN
        for line in self.heading:
            _text(axes, MARGIN, y + HEADING_HEIGHT / 2, line, "left", size=HEADING_SIZE, bold=True)
            y += HEADING_HEIGHT
        y = self._rule(axes, y + GROUP_SPACE, 1.4) + GROUP_SPACE
        y = self._header(axes, y) + GROUP_SPACE / 2
        for number, group in enumerate(self.table.groups):
            y = self._rule(axes, y, 0.9 if number == 0 else 0.5) + GROUP_SPACE
            for i, row in enumerate(group):
                middle = y + LINE_HEIGHT / 2
                for x, text in zip(self.stub_lefts, self.table.printed_stub(group, i), strict=True):
                    _text(axes, x, middle, text, "left")
                for x, cell, column in zip(self.rights, row.cells, self.table.columns, strict=True):
                    _text(axes, x, middle, cell.text, "right", bold=cell.bold, muted=column.muted)
                y += LINE_HEIGHT
            y += GROUP_SPACE
        y = self._rule(axes, y, 1.4) + GROUP_SPACE
        for line in self.caption:
            _text(axes, MARGIN, y + CAPTION_HEIGHT / 2, line, "left", size=CAPTION_SIZE)
            y += CAPTION_HEIGHT
        return figure

    def _header(self, axes: Axes, y: float) -> float:
        table = self.table
        for level in range(table.num_levels):
            middle = y + LINE_HEIGHT / 2
            last = level == table.num_levels - 1
            for span in table.spans(level):
                left, right, muted = self.lefts[span.first], self.rights[span.last], table.columns[span.first].muted
                if last:
                    _text(axes, right, middle, span.text, "right", muted=muted)
                else:
                    _text(axes, (left + right) / 2, middle, span.text, "center", muted=muted)
                    axes.plot([left, right], [y + LINE_HEIGHT] * 2, color=RULE, linewidth=0.6)
            y += LINE_HEIGHT
        for x, text in zip(self.stub_lefts, table.stub, strict=True):
            _text(axes, x, y - LINE_HEIGHT / 2, text, "left")
        return y

    def _rule(self, axes: Axes, y: float, thickness: float) -> float:
        axes.plot([MARGIN, self.right], [y, y], color=INK, linewidth=thickness, solid_capstyle="butt")
        return y


def _font(size: float, bold: bool) -> FontProperties:
    return FontProperties(family=FAMILY, size=size, weight="bold" if bold else "normal")


def _text(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    align: str,
    *,
    size: float = FONT_SIZE,
    bold: bool = False,
    muted: bool = False,
) -> None:
    axes.text(
        x,
        y,
        text,
        ha=align,
        va="center_baseline",  # words with and without descenders stand on one line
        color=MUTED if muted else INK,
        fontproperties=_font(size, bold),
        parse_math=False,  # a dollar sign is a dollar sign
    )


def _width(text: str, size: float = FONT_SIZE, bold: bool = False) -> float:
    return text_to_path.get_text_width_height_descent(text, _font(size, bold), ismath=False)[0] if text else 0.0


def _wrap(text: str, size: float, width: float) -> list[str]:
    """Lines as full as their measured width allows."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _width(longer, size, bold=size == HEADING_SIZE) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
