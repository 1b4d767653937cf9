import math
import re

import pytest
from accuracies_for_tests import write_all
from results_for_tests import result, step

from altq.report.intervals import mean_interval
from altq.report.presentation import Presentation
from altq.report.table7 import table7_frame, wide_table
from altq.report.table_files import read_tidy, write_table

PLAIN = Presentation()
AFFINE = [20.0, 24.0, 22.0]


def made(**methods):
    return [
        result(method, perplexity, seed=seed)
        for method, perplexities in {"affine": AFFINE, **methods}.items()
        for seed, perplexity in enumerate(perplexities)
    ]


def test_perplexity_is_the_geometric_mean_with_its_interval():
    row = table7_frame(made(), PLAIN).iloc[0]
    expected = mean_interval([math.log(p) for p in AFFINE])
    assert row["perplexity"] == pytest.approx((20 * 24 * 22) ** (1 / 3))
    assert (row["perplexity_low"], row["perplexity_high"]) == (math.exp(expected.low), math.exp(expected.high))
    assert math.isnan(row["difference"]) and row["num_seeds"] == 3


def test_differences_are_paired_by_seed():
    # The seeds differ by 20 %, the policies by 2 % in each of them: only pairs show it.
    better = [p * factor for p, factor in zip(AFFINE, (0.980, 0.981, 0.979), strict=True)]
    worse = [p * factor for p, factor in zip(AFFINE, (1.020, 1.021, 1.019), strict=True)]
    mixed = [p * factor for p, factor in zip(AFFINE, (0.9, 1.1, 1.0), strict=True)]
    frame = table7_frame(made(oracle=better, rotation=worse, probe=mixed), PLAIN).set_index("method")
    assert frame.loc["oracle", "difference"] == pytest.approx(math.log(0.98), abs=1e-4)
    assert frame["better"].drop("affine").to_dict() == {"oracle": 1, "rotation": -1, "probe": 0}
    low, high = frame.loc["probe", ["difference_low", "difference_high"]]
    assert low < 0 < high
    cells = {row.stub[1]: row.cells for row in wide_table(frame.reset_index(), PLAIN).rows}
    assert (
        cells["Oracle"][1].bold and cells["Oracle"][1].text.endswith("better") and "−2.0 %" in cells["Oracle"][1].text
    )
    assert cells["Rotation"][1].bold and cells["Rotation"][1].text.endswith("worse")
    assert not cells["Probe"][1].bold and cells["Probe"][1].text.endswith("]")
    assert cells["Affine"][1].text == "–"


def test_the_order_of_the_results_does_not_matter_for_the_pairs():
    results = made(oracle=[19.0, 23.5, 21.0])
    first, second = (table7_frame(order, PLAIN).set_index("method") for order in (results, results[::-1]))
    assert first.loc["oracle", "difference"] == pytest.approx(second.loc["oracle", "difference"])


def test_a_seed_without_its_pair_is_refused():
    with pytest.raises(ValueError, match=r"oracle at W3A3K3V3 has the seeds \[0, 1\], affine \[0, 1, 2\]"):
        table7_frame(made(oracle=[19.0, 23.5]), PLAIN)


def test_time_to_select_is_a_mean_over_seeds():
    searched = [
        result("learned", 19.0, seed=seed, choosing={f"results/scores/{seed}": step("search", seconds)})
        for seed, seconds in enumerate((10.0, 20.0, 60.0))
    ]
    frame = table7_frame(made() + searched, PLAIN).set_index("method")
    assert frame["selection_seconds"].to_dict() == {"affine": 1.0, "learned": 31.0}


def test_the_paper_stands_beside_each_policy_that_it_has():
    shown = Presentation(published_models={"tiny": "LLaMA-2-7B"}, published_corpora={"wiki": "WikiText-2"})
    policies = dict.fromkeys(("rotation", "adaptive", "learned", "best_random", "oracle"), AFFINE)
    table = wide_table(table7_frame(made(**policies), shown), shown)
    papers = {row.stub[1]: row.cells[-1].text for row in table.rows}
    assert papers == {
        "Affine": "–", "Rotation": "7.99", "Adaptive": "7.22", "Learned": "7.18", "Best random": "7.26", "Oracle": "–",
    }  # fmt: skip


def test_minus_signs_are_minus_signs_in_every_file(tmp_path):
    frame = table7_frame(made(oracle=[p * 0.98 for p in AFFINE], rotation=[p * 1.02 for p in AFFINE]), PLAIN)
    write_table(frame, wide_table(frame, PLAIN), tmp_path / "table7.csv")
    text, latex = ((tmp_path / "table7").with_suffix(suffix).read_text() for suffix in (".md", ".tex"))
    assert "−2.0 % [−2.0, −2.0] better" in text and "+2.0 % [+2.0, +2.0] worse" in text
    assert r"$-$2.0 \% [$-$2.0, $-$2.0] better" in latex
    for written in (text, latex):
        assert not re.search(r"(?<![\w$-])-\d", written)


def test_the_file_reads_back(tmp_path):
    frame = table7_frame(made(oracle=[19.0, 23.5, 21.0]), PLAIN)
    write_table(frame, wide_table(frame, PLAIN), tmp_path / "table7.csv")
    assert wide_table(read_tidy(tmp_path / "table7.csv"), PLAIN) == wide_table(frame, PLAIN)


def test_no_claim_is_made_of_what_was_chosen_by_these_perplexities():
    frame = table7_frame(made(best_random=[p * 0.9 for p in AFFINE]), PLAIN)
    assert frame.set_index("method")["better"].isna().all()
    (cell,) = [row.cells[1] for row in wide_table(frame, PLAIN).rows if row.stub[1] == "Best random"]
    assert cell.text.startswith("−10.0 % [−10.0") and not cell.bold


def test_time_to_select_stands_by_model():
    other = [r | {"model": "large"} for r in made()]
    for r in other:
        for record in r["provenance"]["upstream"].values():
            if record.get("command") == "select":
                record["processor_seconds"] = 9.0
    table = wide_table(table7_frame(made() + other, PLAIN), PLAIN)
    assert [column.headings for column in table.columns][-2:] == [
        ("Selection, CPU s", "tiny"),
        ("Selection, CPU s", "large"),
    ]
    assert [cell.text for cell in table.rows[0].cells][-2:] == ["1", "9"]


def test_the_zero_shot_average_has_its_interval_over_seeds(tmp_path):
    zero_shot = []
    for seed, right in enumerate((5, 6, 7)):
        zero_shot += write_all(tmp_path, "affine", [1] * right + [0] * (10 - right), seed=seed)
    frame = table7_frame(made(), PLAIN, zero_shot)
    row, expected = frame.iloc[0], mean_interval([0.5, 0.6, 0.7])
    assert (row["zero_shot"], row["zero_shot_low"], row["zero_shot_high"]) == pytest.approx(expected)
    table = wide_table(frame, PLAIN)
    assert table.rows[0].cells[2].text == "60.00 [35.16, 84.84]"
    assert table.columns[2].headings == ("zero-shot average ↑", "tiny")
