"""A wide table in LaTeX, with booktabs."""

import re

from altq.report.presentation import MINUS
from altq.report.table import Cell, Column, Table

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "β": r"$\beta$",
    "λ": r"$\lambda$",
    "ρ": r"$\rho$",
    MINUS: "$-$",
    "“": "``",
    "”": "''",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "τ": r"$\tau$",
    "–": "--",
    "—": "---",
}
_TOKEN = re.compile(rf"(?<![\w.])({MINUS}?)(\d+(?:\.\d+)?)e([-+{MINUS}]?)0*(\d+)(?!\w)|.")
"""A number with an exponent, or any character that may be special."""


def escape(text: str) -> str:
    """Text as LaTeX sets it; 2.4e5 becomes a power of ten."""

    def typeset(match: re.Match[str]) -> str:
        sign, mantissa, sign_of_exponent, exponent = match.groups()
        if exponent is None:
            return _SPECIAL.get(match[0], match[0])
        minus = "-" if sign else ""
        return rf"${minus}{mantissa} \times 10^{{{'-' if sign_of_exponent in ('-', MINUS) else ''}{exponent}}}$"

    return _TOKEN.sub(typeset, text)


def to_latex(table: Table, protocol: str) -> str:
    """A table environment, which LaTeX numbers, naming the file `protocol`; needs the packages booktabs and xcolor."""
    num_stubs = len(table.stub)
    lines = [
        rf"% {table.name}; needs \usepackage{{booktabs}} and \usepackage{{xcolor}}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{escape(table.title)}}}",
        rf"\begin{{tabular}}{{{'l' * num_stubs}{'r' * len(table.columns)}}}",
        r"\toprule",
    ]
    for level in range(table.num_levels - 1):
        spans = table.spans(level)
        headings = [rf"\multicolumn{{{span.last - span.first + 1}}}{{c}}{{{escape(span.text)}}}" for span in spans]
        lines.append(_line([""] * num_stubs + headings))
        rules = [rf"\cmidrule(lr){{{span.first + num_stubs + 1}-{span.last + num_stubs + 1}}}" for span in spans]
        lines.append(" ".join(rules))
    last_headings = [column.headings[-1] for column in table.columns]
    lines.append(_line([escape(text) for text in (*table.stub, *last_headings)]))
    for group in table.groups:
        lines.append(r"\midrule")
        for i, row in enumerate(group):
            stub = [escape(text) for text in table.printed_stub(group, i)]
            cells = [_cell(cell, column) for cell, column in zip(row.cells, table.columns, strict=True)]
            lines.append(_line(stub + cells))
    lines += [
        r"\bottomrule",
        r"\end{tabular}",
        "",
        r"\smallskip",
        r"\begin{minipage}{\linewidth}\footnotesize",
        escape(table.caption_beside(protocol)),
        r"\end{minipage}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _cell(cell: Cell, column: Column) -> str:
    text = escape(cell.text)
    if cell.bold:
        text = rf"\textbf{{{text}}}"
    return rf"\textcolor{{gray}}{{{text}}}" if column.muted else text


def _line(texts: list[str]) -> str:
    return " & ".join(texts) + r" \\"
