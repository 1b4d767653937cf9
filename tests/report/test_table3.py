"""Table 3: averages by hand, pairs by item, marks where a difference is significant."""

import json

import pandas
import pytest
from accuracies_for_tests import write_accuracy, write_all
from results_for_tests import full, result

from altq.experiment.tasks import TASKS
from altq.report.accuracy import averages, read_accuracies, with_zero_shot
from altq.report.perplexity import perplexity_frame
from altq.report.presentation import Presentation
from altq.report.table3 import table3_frame, wide_table, write_table3
from altq.report.table_files import read_tidy

PLAIN = Presentation()
HALF = [1, 0] * 20
FEW = [1] + [0] * 39


@pytest.fixture
def results(tmp_path):
    paths = write_all(tmp_path, "full", [1] * 40, setting="W16A16K16V16", weights="none")
    paths += write_all(tmp_path, "flatquant", FEW) + write_all(tmp_path, "affine", HALF)
    almost = [*FEW[:-2], 1, 0]
    return paths + write_all(tmp_path, "adaptive", almost)


def test_which_accuracy_enters_the_average(tmp_path):
    paths = [
        write_accuracy(tmp_path, "affine", "piqa", [1, 0, 0, 0], right_norm=[1, 1, 0, 0]),
        write_accuracy(tmp_path, "affine", "winogrande", [1, 1, 1, 0]),
    ]
    frame = read_accuracies(paths, PLAIN).set_index("task")
    assert frame["metric"].to_dict() == {"piqa": "acc_norm", "winogrande": "acc"}
    assert frame["accuracy"].to_dict() == {"piqa": 0.5, "winogrande": 0.75}
    average = averages(frame.reset_index(), PLAIN).iloc[0]
    assert average["accuracy"] == 0.625 and average["acc"] == 0.5
    expected = (frame["stderr"] ** 2).sum() ** 0.5 / 2
    assert average["stderr"] == pytest.approx(expected)


def test_rows_are_in_the_papers_order_with_the_average_last(results):
    frame = table3_frame(results[::-1], "flatquant", PLAIN)
    assert next(iter(frame["method"].unique())) == "full"
    for _, of_method in frame.groupby("method"):
        assert list(of_method["task"]) == [*TASKS, "average"]


def test_differences_are_to_the_reference_on_the_same_items(results):
    frame = table3_frame(results, "flatquant", PLAIN).set_index(["method", "task"])
    affine, adaptive = frame.loc[("affine", "piqa")], frame.loc[("adaptive", "piqa")]
    assert affine["difference"] == pytest.approx(19 / 40) and affine["mcnemar_p"] == pytest.approx(2 / 2**19)
    assert affine["better"] == 1 and adaptive["better"] == 0 and adaptive["mcnemar_p"] == 1
    average = frame.loc[("affine", "average")]
    assert average["difference_low"] > 0 and average["better"] == 1 and pandas.isna(average["mcnemar_p"])
    for method in ("full", "flatquant"):
        assert frame.loc[method, ["difference", "mcnemar_p", "better"]].isna().all(axis=None)


def test_marks_and_bold(results):
    table = wide_table(table3_frame(results, "flatquant", PLAIN), PLAIN)
    cells = {row.stub[1]: row.cells for row in table.rows}
    assert [cell.text for cell in cells["Full precision"]] == ["100.00"] * 7
    assert {cell.text for cell in cells["Affine"]} == {"50.00†"} and all(cell.bold for cell in cells["Affine"])
    assert "† significantly better, ‡ significantly worse than FlatQuant" in table.caption
    assert {cell.text for cell in cells["FlatQuant"]} == {"2.50"}
    assert not any(cell.bold for cell in (*cells["Adaptive"], *cells["Full precision"]))
    worse = wide_table(table3_frame(results, "affine", PLAIN), PLAIN)
    assert {row.stub[1]: row.cells[0].text for row in worse.rows}["FlatQuant"] == "2.50‡"
    assert "worse than Affine" in worse.caption


def test_without_the_reference_nothing_is_marked(results):
    frame = table3_frame(results, "quarot", PLAIN)
    assert frame["better"].isna().all()
    table = wide_table(frame, PLAIN)
    assert "significantly" not in table.caption and "Significant" not in {entry.key for entry in table.protocol}


def test_accuracies_whose_intervals_touch_are_not_bold(tmp_path):
    paths = write_all(tmp_path, "flatquant", HALF) + write_all(tmp_path, "affine", [1] * 26 + [0] * 14)
    paths += write_all(tmp_path, "rotation", HALF)
    table = wide_table(table3_frame(paths, "flatquant", PLAIN), PLAIN)
    bold = [cell.text for row in table.rows for cell in row.cells if cell.bold]
    assert bold == ["65.00†"]  # the average alone: six tasks know more than one


def test_seeds_are_averaged_and_marked_where_all_agree(tmp_path):
    paths = []
    for seed, right in enumerate((HALF, HALF, FEW)):
        paths += write_all(tmp_path, "flatquant", FEW, seed=seed) + write_all(tmp_path, "affine", right, seed=seed)
        paths += write_all(tmp_path, "rotation", HALF, seed=seed)
    cells = {row.stub[1]: row.cells[0].text for row in wide_table(table3_frame(paths, "flatquant", PLAIN), PLAIN).rows}
    assert cells["Rotation"] == "50.00 ± 0.00†"
    assert cells["Affine"].startswith("34.17 ± ") and not cells["Affine"].endswith("†")


def test_the_papers_numbers_stand_beside(tmp_path):
    paths = write_all(tmp_path, "full", HALF, setting="W16A16K16V16", weights="none")
    paths += write_all(tmp_path, "adaptive", HALF) + write_all(tmp_path, "flatquant", HALF)
    shown = Presentation(published_models={"tiny": "LLaMA-2-7B"})
    frame = table3_frame(paths, "flatquant", shown)
    first = frame.loc[frame["method"] == "adaptive"].set_index("task")["published"]
    assert first["arc_challenge"] == pytest.approx(0.3652) and first["average"] == pytest.approx(0.6118, abs=1e-4)
    table = wide_table(frame, shown)
    assert [cell.text for cell in table.rows[1].cells[-7:]][::6] == ["36.52", "61.18"]
    assert table.rows[0].cells[-1].text == "69.79"  # as printed; the mean of its tasks is 69.785
    assert len(wide_table(frame.assign(published=float("nan")), PLAIN).columns) == 7


def test_the_file_reads_back(results, tmp_path):
    csv = tmp_path / "table3.csv"
    write_table3(results, csv, "flatquant", PLAIN)
    shown = wide_table(table3_frame(results, "flatquant", PLAIN), PLAIN)
    assert wide_table(read_tidy(csv), PLAIN) == shown
    assert r"$^\dagger$" in csv.with_suffix(".tex").read_text()
    assert csv.with_suffix(".png").stat().st_size > 0 and csv.with_suffix(".md").stat().st_size > 0


def test_truncated_items_are_said(tmp_path):
    path = write_accuracy(tmp_path, "affine", "lambada_openai", HALF, truncated=3)
    protocol = wide_table(table3_frame([path], "flatquant", PLAIN), PLAIN).protocol
    assert ("Truncated", "3 items of LAMBADA lose their first tokens", "–") in protocol
    assert ("LAMBADA", "acc, 40 of 1000 items, the same for every method", "acc, all items") in protocol


def test_what_cannot_be_tabulated_is_refused(results, tmp_path):
    with pytest.raises(ValueError, match="two results for"):
        read_accuracies([results[0], results[0]], PLAIN)
    with pytest.raises(ValueError, match="lacks piqa; evaluate them"):
        averages(read_accuracies(results[:4] + results[5:], PLAIN), PLAIN)
    content = json.loads(results[0].read_text())
    results[0].write_text(json.dumps(content | {"acc_norm": {"value": float("nan"), "stderr": 0.0}}))
    with pytest.raises(ValueError, match=r"acc_norm.value: Input should be a finite number; evaluate again"):
        read_accuracies(results, PLAIN)
    results[0].write_text(json.dumps({"perplexity": 3}))
    with pytest.raises(ValueError, match="is not a zero-shot result"):
        read_accuracies(results, PLAIN)


def test_items_of_another_run_are_refused(results):
    items = results[7].with_suffix(".parquet")
    pandas.read_parquet(items).assign(acc=1).to_parquet(items)
    with pytest.raises(ValueError, match=r"is not what .* was made with"):
        table3_frame(results, "flatquant", PLAIN)


def test_the_average_stands_beside_perplexities(tmp_path):
    paths = write_all(tmp_path, "affine", HALF) + write_all(
        tmp_path, "full", [1] * 4, setting="W16A16K16V16", weights="none"
    )
    perplexities = [full(9.0), full(8.0, "c4"), result("affine", 10.0), result("affine", 11.0, corpus="c4")]
    frame = perplexity_frame(perplexities, PLAIN)
    assert with_zero_shot(frame, paths, PLAIN)["zero_shot"].tolist() == [1.0, 1.0, 0.5, 0.5]
    assert with_zero_shot(frame, [], PLAIN) is frame
    with pytest.raises(ValueError, match=r"rotation.* has a perplexity, but no zero-shot results"):
        with_zero_shot(perplexity_frame([*perplexities, result("rotation", 9.0)], PLAIN), paths, PLAIN)
