import argparse
import shlex

import pytest
from results_for_tests import result, selection, selection_path

from altq.experiment.policies import Grid, HeuristicOptions
from altq.report.presentation import Presentation
from altq.report.table6 import table6_frame, wide_table
from altq.runtime.flags import add_options, read_options, to_flags

PLAIN = Presentation()


def thresholds(attention, ffn):
    return {
        "attention": {"beta": attention[0], "num_rotation": attention[1]},
        "ffn": {"beta": ffn[0], "num_rotation": ffn[1]},
    }


def options(rule="fixed"):
    return HeuristicOptions(attention={"beta_rule": rule}, ffn={"beta_rule": rule})


@pytest.fixture
def frame():
    grid = Grid(points=(options(), options(), options("z_mass")))
    selections = {
        selection_path("learned"): selection("learned", "affine", "rotation", "rotation", "rotation"),
        "results/selections/tiny/grid0.json": selection(
            "heuristic", "affine", "affine", "affine", "affine", thresholds=thresholds((0.1, 0), (0.9, 0))
        ),
        "results/selections/tiny/grid1.json": selection(
            "heuristic", "rotation", "rotation", "affine", "rotation", thresholds=thresholds((0.5, 1), (0.9, 2))
        ),
        "results/selections/tiny/grid2.json": selection(
            "heuristic", "affine", "rotation", "rotation", "affine", thresholds=thresholds((0.17, 1), (0.75, 1))
        ),
    }
    same = {
        "tiny": {
            "affine": "affine",
            "heuristic": "heuristic",
            "grid0": "affine",
            "grid1": "grid1",
            "grid2": "heuristic",
        }
    }
    results = [result("learned", 20.0), result("affine", 21.0), result("grid1", 19.0), result("adaptive", 22.0)]
    return table6_frame(results, selections, same, grid)


def test_each_point_has_the_perplexity_of_the_first_that_selects_alike(frame):
    rows = frame.set_index("point")
    assert rows["perplexity"].to_dict() == {"grid0": 21.0, "grid1": 19.0, "grid2": 22.0, "learned": 20.0}
    assert rows["same_as"].to_dict() == {"grid0": "affine", "grid1": "", "grid2": "heuristic", "learned": ""}
    assert rows["agreement"].to_dict() == {"grid0": 1, "grid1": 2, "grid2": 3, "learned": 4}
    assert rows.loc["grid2", ["beta_attention", "num_rotation_ffn", "beta_rule"]].tolist() == [0.17, 1, "z_mass"]
    assert rows.loc["learned", ["num_rotation_attention", "num_rotation_ffn"]].tolist() == [1, 2]


def test_the_table_to_read(frame):
    rows = {row.stub[2:]: row.cells for row in wide_table(frame, PLAIN).rows}
    assert [cell.text for cell in rows["0.5 / 0.9", "1 / 2"]] == ["19.00", "2/4 (50.0 %)"]
    assert not any(cells[0].bold for cells in rows.values())  # 17.1 to 20.9 is not clear of 18.0 to 22.0
    assert ("0.17 / 0.75 (z-mass)", "1 / 1") in rows
    assert len(rows) == 4


def test_what_is_clear_of_all_others_is_bold_but_once(frame):
    narrow = frame.assign(perplexity_low=frame["perplexity"] - 0.4, perplexity_high=frame["perplexity"] + 0.4)
    bold = [row.stub[2] for row in wide_table(narrow, PLAIN).rows if row.cells[0].bold]
    assert bold == ["0.5 / 0.9"]
    tied = narrow.replace({"perplexity": {22.0: 19.0}, "perplexity_low": {21.6: 18.6}, "perplexity_high": {22.4: 19.4}})
    assert not any(row.cells[0].bold for row in wide_table(tied, PLAIN).rows)


def test_the_points_keep_their_order_on_the_command_line():
    points = tuple(HeuristicOptions(attention={"beta": number / 20}) for number in range(12))
    parser = argparse.ArgumentParser()
    add_options(parser, Grid)
    read = read_options(parser.parse_args(shlex.split(to_flags(Grid(points=points)))), Grid)
    assert read.points == points and list(read.named) == [f"grid{number}" for number in range(12)]
