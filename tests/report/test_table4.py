import pytest
from accuracies_for_tests import write_all
from results_for_tests import result, selection, selection_path, step

from altq.report.presentation import Presentation
from altq.report.table4 import table4_frame, wide_table, write_table4
from altq.report.table_files import read_tidy
from altq.runtime.files import write_json

PLAIN = Presentation(published_models={"tiny": "LLaMA-2-7B"})
SEARCH = {"results/scores/learned": step("search", 60.0)}
STATISTICS = {"results/statistics/tiny.json": step("statistics", 4.0)}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """(results, selections) on the disk, relative to where the command runs."""
    monkeypatch.chdir(tmp_path)
    selections = {
        selection_path("learned"): selection("learned", "affine", "rotation", "rotation", "rotation"),
        selection_path("adaptive"): selection("heuristic", "affine", "rotation", "rotation", "affine"),
    }
    for path, chosen in selections.items():
        chosen.write(tmp_path / path)
    results = []
    for corpus, learned, heuristic in (("wiki", 20.0, 21.0), ("docs", 30.0, 29.0)):
        made = (
            result("learned", learned, corpus=corpus, choosing=SEARCH),
            result("adaptive", heuristic, corpus=corpus, choosing=STATISTICS),
        )
        for content in made:
            results.append(tmp_path / f"{len(results)}.json")
            write_json(results[-1], content)
    return results, list(selections)


def test_agreement_and_time_of_both(files):
    frame = table4_frame(*files, PLAIN)
    assert len(frame) == 4
    assert frame[
        ["agreement", "agreement_attention", "agreement_ffn", "agreement_blocks"]
    ].drop_duplicates().values.tolist() == [[3, 2, 1, 1]]
    seconds = frame.set_index(["method", "corpus"])[["selection_seconds", "calibration_seconds"]]
    assert seconds.loc["learned", "wiki"].tolist() == [61.0, 250.0]  # a quarter affine at 100, the rest at 300
    assert seconds.loc["adaptive", "wiki"].tolist() == [5.0, 200.0]


def test_a_row_for_each_setting_and_model(files):
    (row,) = wide_table(table4_frame(*files, PLAIN), PLAIN).rows
    assert row.stub == ("W3A3K3V3", "tiny")
    assert [cell.text for cell in row.cells] == [
        "20.00",
        "21.00",
        "30.00",
        "29.00",
        "3/4 (75.0 %)",
        "2/4 (50.0 %)",
        "2/2 (100.0 %)",
        "1/2 (50.0 %)",
        "1/2 (50.0 %)",
        "61",
        "5",
        "311",
        "205",
        "7.18",
        "7.22",
        "9.35",
        "9.43",
        "28/32",
        "11.0",
        "4.0",
    ]


def test_a_model_of_ones_own_gets_no_columns_of_the_paper(files):
    table = wide_table(table4_frame(*files, Presentation()), Presentation())
    assert len(table.columns) == 13 and not any(column.muted for column in table.columns)


def test_the_files_are_written_and_read_back(files, tmp_path):
    results, selections = files
    write_table4(results, [], selections, tmp_path / "table4.csv", PLAIN)
    frame = read_tidy(tmp_path / "table4.csv")
    assert wide_table(frame, PLAIN) == wide_table(table4_frame(*files, PLAIN), PLAIN)
    assert {path.suffix for path in tmp_path.glob("table4.*")} == {".csv", ".md", ".html", ".tex", ".png"}


def test_the_zero_shot_average_stands_beside(files, tmp_path):
    half, most = [1, 0], [1, 1, 1, 0]
    zero_shot = write_all(tmp_path, "learned", half) + write_all(tmp_path, "adaptive", most)
    results, selections = files
    write_table4(results, zero_shot, selections, tmp_path / "table4.csv", PLAIN)
    table = wide_table(read_tidy(tmp_path / "table4.csv"), PLAIN)
    (row,) = table.rows
    assert [cell.text for cell in row.cells[4:6]] == ["50.00", "75.00"]
    paper = [column.headings[0] == "paper: zero-shot average ↑" for column in table.columns]
    assert [cell.text for cell, is_papers in zip(row.cells, paper, strict=True) if is_papers] == ["61.45", "61.18"]
