"""The protocol as Markdown and as a page: every entry, departures bold, nothing that a cell cannot hold."""

from xml.etree import ElementTree

from altq.report.presentation import ABSENT, SAME, Entry
from altq.report.protocol_table import LEGEND, protocol_file, to_html, to_markdown, write_protocol

PROTOCOL = (
    Entry("recipe.steps", "8", "480"),
    Entry("rounding.weights", "GPTQ", "GPTQ"),
    Entry("seeds", "0"),
    Entry("models.m", "<m> & more", SAME),
    Entry("note", "one | two\n- three"),
)


def test_golden_markdown():
    assert to_markdown("Table 0. Things.", PROTOCOL) == (
        "**Table 0. Things.** Protocol.\n"
        "\n"
        "| Key              | Here               | Paper    |\n"
        "| ---------------- | ------------------ | -------- |\n"
        "| recipe.steps     | **8**              | 480      |\n"
        "| rounding.weights | GPTQ               | GPTQ     |\n"
        "| seeds            | 0                  | –        |\n"
        "| models.m         | <m> & more         | the same |\n"
        "| note             | one \\| two - three | –        |\n"
        "\n"
        f"{LEGEND}\n"
    )


def test_the_page_has_the_same_rows_and_loads_nothing():
    page = to_html("Table 0. Things.", PROTOCOL)
    assert "&lt;m&gt; &amp; more" in page
    for loads in ("src=", "href=", "url(", "@import", "<script"):
        assert loads not in page
    body = ElementTree.fromstring(page[page.index("<table") : page.index("</table>") + len("</table>")])
    rows = [tuple("".join(cell.itertext()) for cell in row) for row in body]
    assert rows == [("Key", "Here", "Paper"), *PROTOCOL]
    assert [bold.text for bold in body.iter("b")] == ["8"]


def test_only_what_differs_departs():
    assert [entry.departs for entry in PROTOCOL] == [True, False, False, False, False]
    assert not Entry("key", "here", ABSENT).departs


def test_it_lies_beside_its_table(tmp_path):
    write_protocol("Figure 1. Things.", PROTOCOL, tmp_path / "figure1.pdf")
    assert {path.name for path in tmp_path.iterdir()} == {"figure1.protocol.md", "figure1.protocol.html"}
    assert protocol_file("results/table2.csv").as_posix() == "results/table2.protocol.md"
