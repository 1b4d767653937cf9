import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from altq.report.presentation import HEADINGS, Entry
from altq.report.table import MAX_CAPTION, MAX_HEADING, Cell, Column, Row, Span, Table, to_markdown, to_terminal
from altq.report.table_image import MARGIN, _Layout, write_image
from altq.report.table_latex import escape, to_latex


@pytest.fixture
def table():
    return Table(
        name="Table 0",
        title="Things.",
        stub=("Setting", "Method"),
        columns=(Column(("A ↓", "m1")), Column(("A ↓", "m2")), Column(("B ↓", "m1"), muted=True)),
        groups=(
            (Row(("", "full"), (Cell("1.00"), Cell("2.00"), Cell())),),
            (
                Row(("W4", "x_y"), (Cell("3.00", bold=True), Cell("2.4e5"), Cell("5.00"))),
                Row(("W4", "z"), (Cell("3.50"), Cell("9 ± 1", bold=True), Cell("6.00"))),
            ),
        ),
        caption="100 % made.",
        protocol=(Entry("steps", "8", "480"),),
    )


def test_neighbouring_headings_are_shared(table):
    assert table.spans(0) == [Span("A ↓", 0, 1), Span("B ↓", 2, 2)]
    assert table.spans(1) == [Span("m1", 0, 0), Span("m2", 1, 1), Span("m1", 2, 2)]


def test_golden_markdown(table):
    assert to_markdown(table, "t.protocol.md") == (
        "**Table 0. Things.**\n"
        "\n"
        "| Setting | Method | A ↓<br>m1 | A ↓<br>m2 | B ↓<br>m1 |\n"
        "| ------- | ------ | --------: | --------: | --------: |\n"
        "|         | full   |      1.00 |      2.00 |         – |\n"
        "| W4      | x_y    |  **3.00** |     2.4e5 |      5.00 |\n"
        "|         | z      |      3.50 | **9 ± 1** |      6.00 |\n"
        "\n"
        "100 % made. Protocol: [t.protocol.md](t.protocol.md)\n"
    )


def test_golden_terminal(table):
    assert to_terminal(table, "t.protocol.md") == (
        "Table 0. Things.\n"
        "\n"
        "                      A ↓        B ↓\n"
        "Setting  Method     m1      m2     m1\n"
        "━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━\n"
        "         full    1.00    2.00      –\n"
        "─────────────────────────────────────\n"
        "W4       x_y     3.00*  2.4e5   5.00\n"
        "         z       3.50   9 ± 1*  6.00\n"
        "━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━\n"
        "100 % made. Protocol: t.protocol.md\n"
    )


def test_terminal_escapes_do_not_move_anything(table):
    text = to_terminal(table, "t.protocol.md", ansi=True)
    assert text.count("\x1b[1m") == 2
    plain = re.sub(r"\x1b\[\d+m", "", text)
    ends = [line.rfind(end) + len(end) for line in plain.splitlines() for end in ("5.00", "6.00") if line.endswith(end)]
    assert len(set(ends)) == 1 and len(ends) == 2


def test_a_wide_heading_widens_its_columns(table):
    columns = tuple(Column(("a heading much wider than its numbers", c.headings[1])) for c in table.columns)
    text = to_terminal(Table("T", "t", table.stub, columns, table.groups), "t.protocol.md")
    assert "a heading much wider than its numbers" in text
    rule = next(line for line in text.splitlines() if line.startswith("━"))
    assert max(map(len, text.splitlines())) <= len(rule)


def test_latex(table):
    text = to_latex(table, "t.protocol.md")
    assert r"\begin{tabular}{llrrr}" in text
    assert r" &  & \multicolumn{2}{c}{A $\downarrow$} & \multicolumn{1}{c}{B $\downarrow$} \\" in text
    assert r"\cmidrule(lr){3-4} \cmidrule(lr){5-5}" in text
    assert r"W4 & x\_y & \textbf{3.00} & $2.4 \times 10^{5}$ & \textcolor{gray}{5.00} \\" in text
    assert r" & z & 3.50 & \textbf{9 $\pm$ 1} & \textcolor{gray}{6.00} \\" in text
    assert r"100 \% made. Protocol: t.protocol.md" in text
    for name in ("table", "tabular", "minipage"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1
    assert text.count(r"\midrule") == 2


def test_latex_escapes():
    assert escape(r"a_b & 5% of $3 #1 {x} ~^\ <") == (
        r"a\_b \& 5\% of \$3 \#1 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} \textless{}"
    )
    assert escape("at 5e-3") == escape("at 5e−3") == r"at $5 \times 10^{-3}$"
    assert escape("1e+06, −1.5e-06") == r"$1 \times 10^{6}$, $-1.5 \times 10^{-6}$"
    assert escape("−2.0 % [−2.2, +0.1], β × λ “x”") == r"$-$2.0 \% [$-$2.2, +0.1], $\beta$ $\times$ $\lambda$ ``x''"
    assert escape("W4A4K2V2, sha 9c0e5f") == "W4A4K2V2, sha 9c0e5f"


def test_image_bytes_are_the_same_every_time(table, tmp_path):
    for name in ("a.png", "b.png"):
        write_image(table, tmp_path / name, "t.protocol.md")
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes()
    assert b"Software" not in content and b"tEXt" not in content


def test_nothing_is_cut_off_or_overlaps(table, tmp_path):
    long = replace(table, title="A long title. " * 4, caption="A long caption. " * 16)
    write_image(long, tmp_path / "a.png", "t.protocol.md")
    ink = imread(tmp_path / "a.png")[..., :3].min(axis=2) < 0.9  # [height, width]
    pixels = 200 / 72
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    assert rows[0] >= (MARGIN - 4) * pixels and rows[-1] <= ink.shape[0] - (MARGIN - 4) * pixels
    assert columns[0] >= (MARGIN - 2) * pixels and columns[-1] <= ink.shape[1] - (MARGIN - 2) * pixels
    layout = _Layout(long, "t.protocol.md")
    assert all(left > right for left, right in zip(layout.lefts[1:], layout.rights, strict=False))
    assert layout.lefts[0] > layout.stub_lefts[-1]


def test_a_table_has_at_most_four_lines_of_words(table):
    words = "a heading of words of usual letters " * 8
    widest = replace(table, title=words[: MAX_HEADING - 9], caption=words[:MAX_CAPTION])
    layout = _Layout(widest, "table2.protocol.md")
    assert len(layout.heading) == 1 and len(layout.caption) <= 3
    for longer in ({"title": "m" * MAX_HEADING}, {"caption": "w" * (MAX_CAPTION + 1)}):
        with pytest.raises(AssertionError, match="Table 0 says too much"):
            replace(table, **longer)


@pytest.mark.parametrize("heading", HEADINGS.values())
def test_every_heading_fits_into_one_line(table, heading):
    assert len(_Layout(replace(table, name=heading.name, title=heading.title), "p").heading) == 1
