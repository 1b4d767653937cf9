"""The protocol of a table or figure as a table of its own beside it: Markdown, and the same as a page of HTML."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from altq.report.presentation import ABSENT, Entry
from altq.report.table import markdown_grid
from altq.runtime.files import write_text

COLUMNS = ("Key", "Here", "Paper")
LEGEND = (
    "Bold: other than in the paper or, of a baseline, other than its authors'; theirs is in the last column. "
    f"{ABSENT}: they say nothing."
)
STYLE = (
    "body {font-family: sans-serif; font-size: 14px; margin: 2em; max-width: 70em}"
    "table {border-collapse: collapse} td, th {text-align: left; vertical-align: top; padding: 0.3em 1.2em 0.3em 0;"
    " border-bottom: 1px solid #ccc} td:first-child {white-space: nowrap; font-family: monospace}"
)


PROTOCOL_FILES = (".protocol.md", ".protocol.html")
"""Ends of the names of a protocol's files, after the stem of the table or figure."""


def protocol_file(path: str | Path) -> Path:
    """The protocol beside a table or figure: `table2.protocol.md` for `table2.csv`."""
    path = Path(path)
    return path.with_name(f"{path.stem}.protocol.md")


def write_protocol(heading: str, protocol: Sequence[Entry], path: str | Path) -> None:
    """Write the protocol beside the table or figure `path`, as `.protocol.md` and `.protocol.html`."""
    file = protocol_file(path)
    write_text(file.with_suffix(".html"), to_html(heading, protocol))
    write_text(file, to_markdown(heading, protocol))


def to_markdown(heading: str, protocol: Sequence[Entry]) -> str:
    """GitHub Markdown: the heading, a row for each entry, and what bold means."""
    rows = [(entry.key, f"**{entry.here}**" if entry.departs else entry.here, entry.paper) for entry in protocol]
    lines = [[_one_line(text) for text in row] for row in rows]
    return f"**{heading}** Protocol.\n\n{markdown_grid([COLUMNS, *lines], len(COLUMNS))}\n{LEGEND}\n"


def to_html(heading: str, protocol: Sequence[Entry]) -> str:
    """A protocol as one page of HTML that loads nothing from elsewhere."""
    page = Element("html")
    head, body = SubElement(page, "head"), SubElement(page, "body")
    SubElement(head, "meta", charset="utf-8")
    SubElement(head, "title").text = f"{heading} Protocol."
    SubElement(head, "style").text = STYLE
    SubElement(body, "h3").text = f"{heading} Protocol."
    table = SubElement(body, "table")
    header = SubElement(table, "tr")
    for text in COLUMNS:
        SubElement(header, "th").text = text
    for entry in protocol:
        row = SubElement(table, "tr")
        SubElement(row, "td").text = entry.key
        here = SubElement(row, "td")
        (SubElement(here, "b") if entry.departs else here).text = entry.here
        SubElement(row, "td").text = entry.paper
    SubElement(body, "p").text = LEGEND
    return f"<!DOCTYPE html>\n{tostring(page, encoding='unicode', method='html')}\n"


def _one_line(text: str) -> str:
    """A cell of Markdown cannot hold a line break."""
    return " ".join(text.split())
