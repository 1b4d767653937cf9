"""Figures 1 and 2: the points behind them, and files that do not change."""

import math

import numpy as np
import pandas
import pytest

from altq.experiment.policies import HeuristicOptions
from altq.report.figure1 import write_figure1
from altq.report.figure2 import write_figure2
from altq.report.places import place_of
from altq.runtime.files import write_json
from altq.selection.kurtosis import Moments
from altq.selection.random import random_selection
from altq.selection.scores import Scores

OPTIONS = HeuristicOptions()
NUM_BLOCKS = 8


def projection(generator):
    moments = Moments.of(generator.standard_t(6, size=300), "w")
    return {**moments.to_json(), "excess_kurtosis": moments.excess_kurtosis("w")}


@pytest.fixture
def statistics(tmp_path):
    generator = np.random.default_rng(0)
    sublayers = [
        {
            "block": block,
            "half": half,
            "selected_site": site,
            "sites": {site: {name: projection(generator) for name in names}},
        }
        for block in range(NUM_BLOCKS)
        for half, site, names in (("attention", "qkv", "qkv"), ("ffn", "gate_up", "gu"))
    ]
    write_json(tmp_path / "tiny.json", {"model": "tiny", "num_blocks": NUM_BLOCKS, "sublayers": sublayers})
    return tmp_path / "tiny.json"


def scores(folder, setting, gains):
    """Errors of which rotation's are lower by these log ratios, one for each sublayer."""
    values = tuple({"affine": 0.5, "rotation": 0.5 * math.exp(-gain)} for gain in gains)
    path = folder / f"scores/tiny/{setting}/seed0/oracle/scores.json"
    Scores("tiny", "reconstruction error", True, values).write(path)
    return path


def test_figure_1_has_a_point_for_each_sublayer(tmp_path, statistics):
    chosen = random_selection("tiny", NUM_BLOCKS, ["affine", "rotation"], 0)
    path = tmp_path / "selections/tiny/W3A3K3V3/seed2/learned.json"
    chosen.write(path)
    write_figure1([statistics], [path], OPTIONS, tmp_path / "figure1.pdf")
    points = pandas.read_csv(tmp_path / "figure1.csv")
    assert len(points) == 2 * NUM_BLOCKS and set(points["setting"]) == {"W3A3K3V3"} and set(points["seed"]) == {2}
    kinds = {(row.half, row.block): row.kind for row in points.itertuples()}
    assert kinds == {(layer.half, layer.block): layer.kind for layer in chosen.layers}
    assert (tmp_path / "figure1.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "figure1.png").read_bytes().startswith(b"\x89PNG")


def test_figure_2_measures_the_gain_and_its_correlation(tmp_path, statistics):
    gains = np.random.default_rng(1).normal(size=2 * NUM_BLOCKS)
    paths = [scores(tmp_path, "W3A3K3V3", gains), scores(tmp_path, "W4A4K4V4", -gains)]
    write_figure2([statistics], paths, OPTIONS, tmp_path / "figure2.pdf")
    points = pandas.read_csv(tmp_path / "figure2.csv")
    first = points.loc[points["setting"] == "W3A3K3V3"]
    assert first.loc[first["half"] == "ffn", "gain"].tolist() == pytest.approx(gains[1::2].tolist())
    assert first.loc[first["half"] == "attention", "gain"].tolist() == pytest.approx(gains[::2].tolist())
    found = pandas.read_csv(tmp_path / "figure2-correlation.csv").set_index(["setting", "half"])
    assert len(found) == 4 and set(found["num_layers"]) == {NUM_BLOCKS}
    # What turns every gain around turns the correlation around.
    assert found.loc[("W3A3K3V3", "ffn"), "rho"] == pytest.approx(-found.loc[("W4A4K4V4", "ffn"), "rho"])
    assert ((found["rho_low"] < found["rho"]) & (found["rho"] < found["rho_high"])).all()


def test_the_files_of_a_figure_do_not_change(tmp_path, statistics):
    path = scores(tmp_path, "W3A3K3V3", np.linspace(-1, 1, 2 * NUM_BLOCKS))
    for name in ("one", "two"):
        write_figure2([statistics], [path], OPTIONS, tmp_path / f"{name}.pdf")
    for suffix in (".pdf", ".png", ".csv"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_figure_2_needs_both_kinds(tmp_path, statistics):
    values = tuple({"affine": 1.0, "balance": 2.0} for _ in range(2 * NUM_BLOCKS))
    path = tmp_path / "scores/tiny/W3A3K3V3/seed0/oracle/scores.json"
    Scores("tiny", "reconstruction error", True, values).write(path)
    with pytest.raises(ValueError, match="compares affine, balance; Figure 2 needs affine and rotation"):
        write_figure2([statistics], [path], OPTIONS, tmp_path / "figure2.pdf")


def test_a_place_is_read_from_a_path(tmp_path):
    assert place_of(tmp_path / "results/selections/m.v1/W3A3K2V2/seed12/oracle.json") == ("m.v1", "W3A3K2V2", 12)
    with pytest.raises(ValueError, match="not of the form <model>/<setting>/seed<k>"):
        place_of(tmp_path / "results/selections/m/heuristic.json")
