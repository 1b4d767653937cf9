"""A wide table, as in a paper, with its caption and protocol, and two plain renderings: Markdown and terminal."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from altq.report.presentation import ABSENT, Entry

GAP = 2  # spaces between columns on a terminal
MAX_PADDING = 40  # longer cells of Markdown stick out, and do not widen all lines
MIN_CAPTION_WIDTH = 60
MAX_HEADING, MAX_CAPTION = 72, 270
"""Characters: one line of heading above and three of caption below the table, at the least width of an image."""


@dataclass(frozen=True)
class Cell:
    """A number as it is printed."""

    text: str = ABSENT
    bold: bool = False


@dataclass(frozen=True)
class Column:
    """A column of numbers with its headings from top to bottom. Muted columns, the paper's, are set in grey."""

    headings: tuple[str, ...]
    muted: bool = False


@dataclass(frozen=True)
class Row:
    """A row of cells; `stub` names it, a text for each column of names."""

    stub: tuple[str, ...]
    cells: tuple[Cell, ...]


class Span(NamedTuple):
    """A heading over the columns first to last, both included."""

    text: str
    first: int
    last: int


@dataclass(frozen=True)
class Table:
    """Groups of rows under columns of numbers; `stub` heads the columns that name a row; the caption stands below.

    name: the paper's, e.g. "Table 2". protocol: how its numbers came about, which is a table of its own, so
    that the caption stays short.
    """

    name: str
    title: str
    stub: tuple[str, ...]
    columns: tuple[Column, ...]
    groups: tuple[tuple[Row, ...], ...]
    caption: str = ""
    protocol: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        depths = {len(column.headings) for column in self.columns}
        assert len(depths) == 1, f"columns have headings of different depths: {depths}"
        assert len(self.heading) <= MAX_HEADING and len(self.caption) <= MAX_CAPTION, f"{self.name} says too much"
        for row in self.rows:
            assert len(row.stub) == len(self.stub) and len(row.cells) == len(self.columns), f"row {row} does not fit"

    @property
    def heading(self) -> str:
        return f"{self.name}. {self.title}"

    def caption_beside(self, protocol: str) -> str:
        """The caption of a table whose protocol is the file `protocol`."""
        return f"{self.caption} Protocol: {protocol}".lstrip()

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for group in self.groups for row in group)

    @property
    def num_levels(self) -> int:
        return len(self.columns[0].headings)

    def spans(self, level: int) -> list[Span]:
        """List the headings of one level; neighbours under the same headings share one, but for the last level's."""
        if level == self.num_levels - 1:
            return [Span(column.headings[-1], i, i) for i, column in enumerate(self.columns)]
        spans = []
        for headings, group in groupby(enumerate(self.columns), key=lambda item: item[1].headings[: level + 1]):
            members = [i for i, _ in group]
            spans.append(Span(headings[-1], members[0], members[-1]))
        return spans

    def printed_stub(self, group: Sequence[Row], position: int) -> tuple[str, ...]:
        """The stub of a row within its group, blank where the row above already says it."""
        stub = group[position].stub
        if position == 0:
            return stub
        above = group[position - 1].stub
        repeated = [stub[: i + 1] == above[: i + 1] for i in range(len(stub))]
        return tuple("" if same else text for text, same in zip(stub, repeated, strict=True))


def to_markdown(table: Table, protocol: str) -> str:
    """GitHub Markdown, with a link to the file `protocol`; the levels of a heading are joined by line breaks."""
    header = [*table.stub, *("<br>".join(column.headings) for column in table.columns)]
    body = [
        [*table.printed_stub(group, i), *(f"**{cell.text}**" if cell.bold else cell.text for cell in row.cells)]
        for group in table.groups
        for i, row in enumerate(group)
    ]
    caption = table.caption_beside(f"[{protocol}]({protocol})")
    return f"**{table.heading}**\n\n{markdown_grid([header, *body], len(table.stub))}\n{caption}\n"


def markdown_grid(lines: Sequence[Sequence[str]], num_left: int) -> str:
    """A table of GitHub Markdown from its lines, the first its header; all but `num_left` columns to the right."""
    lines = [[text.replace("|", "\\|") for text in line] for line in lines]
    widths = [max(3, min(MAX_PADDING, max(len(line[i]) for line in lines))) for i in range(len(lines[0]))]
    rule = ["-" * width if i < num_left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    padded = [
        [
            text.ljust(width) if i < num_left else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in (lines[0], rule, *lines[1:])
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def to_terminal(table: Table, protocol: str, ansi: bool = False) -> str:
    """Plain text with rules, naming the file `protocol`; bold by escape codes where `ansi`, else by an asterisk."""
    num_stubs = len(table.stub)
    body = [(table.printed_stub(group, i), row.cells) for group in table.groups for i, row in enumerate(group)]
    stub_widths = [max(len(text) for text in (table.stub[i], *(stub[i] for stub, _ in body))) for i in range(num_stubs)]
    widths = [
        max(len(table.columns[i].headings[-1]), *(len(cells[i].text) + (not ansi) for _, cells in body))
        for i in range(len(table.columns))
    ]
    for level in range(table.num_levels - 1):  # a heading wider than its columns widens the last of them
        for span in table.spans(level):
            needed = len(span.text) - _span_width(widths, span)
            widths[span.last] += max(0, needed)

    def stub_text(stub: Sequence[str]) -> str:
        return (" " * GAP).join(text.ljust(width) for text, width in zip(stub, stub_widths, strict=True))

    def cell_text(cell: Cell, width: int) -> str:
        if ansi:
            return " " * (width - len(cell.text)) + (f"\x1b[1m{cell.text}\x1b[0m" if cell.bold else cell.text)
        return (cell.text + ("*" if cell.bold else " ")).rjust(width)

    lines = []
    for level in range(table.num_levels):
        spans = table.spans(level)
        if level < table.num_levels - 1:
            line = [stub_text([""] * num_stubs), *(span.text.center(_span_width(widths, span)) for span in spans)]
        else:
            line = [stub_text(table.stub), *(span.text.rjust(widths[span.first]) for span in spans)]
        lines.append((" " * GAP).join(line).rstrip())
    width = sum(stub_widths) + sum(widths) + GAP * (num_stubs + len(widths) - 1)
    rules = {0: "━" * width}
    position = 0
    for group in table.groups:
        rules.setdefault(position, "─" * width)
        position += len(group)
    output = []
    for position, (stub, cells) in enumerate(body):
        if position in rules:
            output.append(rules[position])
        output.append((" " * GAP).join([stub_text(stub), *map(cell_text, cells, widths)]).rstrip())
    text_width = max(width, MIN_CAPTION_WIDTH)
    heading = textwrap.wrap(table.heading, text_width)
    caption = textwrap.wrap(table.caption_beside(protocol), text_width)
    return "\n".join([*heading, "", *lines, *output, "━" * width, *caption]) + "\n"


def _span_width(widths: Sequence[int], span: Span) -> int:
    return sum(widths[span.first : span.last + 1]) + GAP * (span.last - span.first)
