import pytest
from results_for_tests import result, selection, selection_path, step

from altq.report.selections import calibration_seconds, read_selections, selection_of, selection_seconds


def test_the_selection_is_the_one_that_was_assembled():
    learned = selection("learned", "affine", "rotation")
    given = {selection_path("learned"): learned, selection_path("adaptive"): selection("heuristic", "affine", "affine")}
    assert selection_of(result("learned", 9.0), given) is learned
    with pytest.raises(ValueError, match=r"oracle.json, the selection behind a result of oracle, is not given"):
        selection_of(result("oracle", 9.0), given)


def test_a_selection_is_found_by_whichever_path_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recorded = selection_path("learned")
    (tmp_path / recorded).parent.mkdir(parents=True)
    selection("learned", "affine", "rotation").write(recorded)
    for given in (recorded, tmp_path / recorded, f"results/../{recorded}"):
        assert selection_of(result("learned", 9.0), read_selections([given])).policy == "learned"


def test_choosing_takes_all_that_comes_before_it_but_the_states():
    assert selection_seconds(result("affine", 9.0)) == 1.0
    statistics = {"results/statistics/tiny.json": step("statistics", 4.0, ["results/models/tiny"])}
    assert selection_seconds(result("adaptive", 9.0, choosing=statistics)) == 5.0
    searched = {"results/scores/x/scores.json": step("search", 60.0, ["results/states/tiny/seed0"])}
    assert selection_seconds(result("learned", 9.0, choosing=searched)) == 61.0
    # The oracle needs both banks, which its scores were measured on.
    banks = [f"results/bank/tiny/W3A3K3V3/seed0/{kind}" for kind in ("affine", "rotation")]
    measured = {"results/scores/y/scores.json": step("reconstruction", 7.0, banks)}
    assert selection_seconds(result("oracle", 9.0, choosing=measured)) == 1 + 7 + 100 + 300


def test_calibration_counts_of_each_bank_what_is_read_from_it():
    chosen = selection("learned", "affine", "rotation", "affine", "affine")
    assert calibration_seconds(result("learned", 9.0), chosen) == pytest.approx(0.75 * 100 + 0.25 * 300)


def test_a_result_without_history_is_refused():
    made = result("affine", 9.0)
    made["provenance"]["upstream"] = {path: {} for path in made["provenance"]["inputs"]}
    with pytest.raises(ValueError, match="no history of `altq select`"):
        selection_seconds(made)
