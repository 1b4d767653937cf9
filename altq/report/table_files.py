"""The files of a table: tidy for machines, laid out for people in three forms, and the protocol behind it."""

from pathlib import Path

import pandas

from altq.report.protocol_table import PROTOCOL_FILES, protocol_file, write_protocol
from altq.report.table import Table, to_markdown
from altq.report.table_image import write_image
from altq.report.table_latex import to_latex
from altq.runtime.files import write_text

TABLE_FILES = (".md", ".tex", ".png", ".json", *PROTOCOL_FILES)
"""Ends of the names of what lies beside a table's CSV file."""


def write_table(frame: pandas.DataFrame, table: Table, csv: str | Path) -> None:
    """Write the tidy table as `csv`, beside it the one to read as .md, .tex and .png, and the protocol of both.

    The CSV file comes last, so that it is there only where all are.
    """
    csv, protocol = Path(csv), protocol_file(csv)
    write_protocol(table.heading, table.protocol, csv)
    write_text(csv.with_suffix(".md"), to_markdown(table, protocol.name))
    write_text(csv.with_suffix(".tex"), to_latex(table, protocol.name))
    write_image(table, csv.with_suffix(".png"), protocol.name)
    write_text(csv, frame.to_csv(index=False, lineterminator="\n"))


def read_tidy(csv: str | Path) -> pandas.DataFrame:
    """Read a tidy table as it was written: the names of models are text, and only what is empty is absent."""
    return pandas.read_csv(csv, keep_default_na=False, na_values=[""], dtype={"model": str})
