import pytest
from accuracies_for_tests import write_all
from results_for_tests import full, result

from altq.report.accuracy import with_zero_shot
from altq.report.perplexity import perplexity_frame
from altq.report.presentation import Entry, Presentation
from altq.report.table1 import wide_table, write_table1
from altq.report.table_files import read_tidy
from altq.runtime.files import write_json

PLAIN = Presentation(protocol=(Entry("note", "Made numbers."),))
PAPERS = Presentation(published_models={"tiny": "LLaMA-2-7B"}, published_corpora={"wiki": "WikiText-2", "docs": "C4"})


def made(number=4):
    results = []
    for corpus, factor in (("wiki", 1.0), ("docs", 2.0)):
        results.append(full(5.0 * factor, corpus))
        results += [result(method, p * factor, corpus=corpus) for method, p in (("affine", 9.0), ("rotation", 10.0))]
        results += [result(f"random{k}", (11.0 - 3 * k / (number - 1)) * factor, corpus=corpus) for k in range(number)]
    return results


def cells(table):
    return {row.stub[-1]: [cell.text for cell in row.cells] for row in table.rows}


def test_the_rows_of_the_paper():
    frame = perplexity_frame(made(), PLAIN, table="table1")
    assert len(frame) == 2 * 7
    table = wide_table(frame, PLAIN)
    assert cells(table) == {
        "Full precision": ["5.00", "10.00"],
        "Affine everywhere": ["9.00", "18.00"],
        "Rotation everywhere": ["10.00", "20.00"],
        "Random, mean ± deviation": ["9.50 ± 1.29", "19.00 ± 2.58"],  # 11 10 9 8
        "Best random": ["8.00", "16.00"],
    }
    told = {entry.key: entry.here for entry in table.protocol}
    assert told["selection.num_random"] == "4" and "tiny at W3A3K3V3: random3" in told["Best random"]
    assert told["note"] == "Made numbers." and "4 selections" in table.caption


def test_the_best_is_one_selection_for_all_texts():
    results = [r for r in made() if not r["method"].startswith("random")]
    results += [result("random0", 7.0), result("random0", 40.0, corpus="docs")]
    results += [result("random1", 8.0), result("random1", 17.0, corpus="docs")]
    assert cells(wide_table(perplexity_frame(results, PLAIN), PLAIN))["Best random"] == ["8.00", "17.00"]


def test_the_papers_numbers_stand_beside_ours_at_its_setting():
    table = cells(wide_table(perplexity_frame(made(), PAPERS, table="table1"), PAPERS))
    assert table["Full precision"][2:] == ["5.47", "7.26"]
    assert table["Affine everywhere"][2:] == ["7.54", "9.76"]
    assert table["Random, mean ± deviation"][2:] == ["7.61 ± 0.36", "9.96 ± 0.59"]
    assert table["Best random"][2:] == ["7.26", "9.42"]
    other = [r | {"setting": "W2A4K4V4"} if r["method"] != "full" else r for r in made()]
    table = cells(wide_table(perplexity_frame(other, PAPERS, table="table1"), PAPERS))
    assert table["Affine everywhere"][2:] == ["–", "–"] and table["Full precision"][2:] == ["5.47", "7.26"]


def test_on_the_papers_model_the_tidy_table_has_its_numbers():
    shown = Presentation(published_models={"tiny": "LLaMA-2-7B"}, published_corpora={"wiki": "WikiText-2"})
    frame = perplexity_frame(made(), shown, table="table1").set_index(["method", "corpus"])["published"]
    assert frame["affine", "wiki"] == 7.54 and frame["rotation", "wiki"] == 7.99
    assert frame[[("affine", "docs"), ("random0", "wiki")]].isna().all()


def test_every_selection_is_in_the_file(tmp_path):
    paths = []
    for number, content in enumerate(made(20)):
        paths.append(tmp_path / f"{number}.json")
        write_json(paths[-1], content)
    write_table1(paths, [], tmp_path / "table1.csv", PLAIN)
    frame = read_tidy(tmp_path / "table1.csv")
    assert len(frame) == 2 * 23 and frame.groupby("corpus")["method"].nunique().tolist() == [23, 23]
    assert {path.suffix for path in tmp_path.glob("table1.*")} == {".csv", ".md", ".html", ".tex", ".png"}
    assert wide_table(frame, PLAIN) == wide_table(perplexity_frame(made(20), PLAIN), PLAIN)


def test_a_nan_is_refused():
    results = made()
    results[-1]["perplexity"] = float("nan")
    with pytest.raises(ValueError, match="only finite perplexities"):
        perplexity_frame(results, PLAIN)


def test_the_zero_shot_average_stands_beside(tmp_path):
    zero_shot = write_all(tmp_path, "full", [1, 1], setting="W16A16K16V16", weights="none")
    methods = ["affine", "rotation", *(f"random{k}" for k in range(4))]
    for right, method in enumerate(methods):
        zero_shot += write_all(tmp_path, method, [1] * right + [0] * (6 - right))
    table = wide_table(with_zero_shot(perplexity_frame(made(), PAPERS, table="table1"), zero_shot, PAPERS), PAPERS)
    rows = cells(table)
    assert [rows[name][2] for name in rows] == ["100.00", "0.00", "16.67", "58.33 ± 21.52", "83.33"]
    assert [rows[name][-1] for name in rows] == ["69.79", "59.89", "58.91", "59.64 ± 0.75", "61.15"]
    assert table.columns[2].headings[0] == "zero-shot average ↑" and table.columns[-1].muted
