"""Figures 1 and 2: the points behind them, and files that do not change."""

import math

import numpy as np
import pandas
import pytest

from altq.experiment.policies import HeuristicOptions
from altq.report import figure
from altq.report.figure1 import write_figure1
from altq.report.figure2 import write_figure2
from altq.report.presentation import Entry, Presentation
from altq.runtime.files import write_json
from altq.selection.kurtosis import Moments
from altq.selection.random import random_selection
from altq.selection.scores import Scores

OPTIONS = HeuristicOptions()
PLAIN = Presentation(protocol=(Entry("seeds", "0"),), labels={"tiny": "Tiny"})
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
    chosen = random_selection("tiny", NUM_BLOCKS, candidates=["affine", "rotation"], seed=0)
    path = tmp_path / "selections/tiny/W3A3K3V3/seed2/learned.json"
    chosen.write(path)
    write_figure1([statistics], [path], OPTIONS, tmp_path / "figure1.pdf", PLAIN)
    points = pandas.read_csv(tmp_path / "figure1.csv")
    assert len(points) == 2 * NUM_BLOCKS and set(points["setting"]) == {"W3A3K3V3"} and set(points["seed"]) == {2}
    kinds = {(row.half, row.block): row.kind for row in points.itertuples()}
    assert kinds == {(decision.half, decision.block): decision.kind for decision in chosen.decisions}
    assert "| seeds " in (tmp_path / "figure1.protocol.md").read_text()
    assert (tmp_path / "figure1.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "figure1.png").read_bytes().startswith(b"\x89PNG")


def test_figure_2_measures_the_gain_and_its_correlation(tmp_path, statistics):
    gains = np.random.default_rng(1).normal(size=2 * NUM_BLOCKS)
    paths = [scores(tmp_path, "W3A3K3V3", gains), scores(tmp_path, "W4A4K4V4", -gains)]
    write_figure2([statistics], paths, OPTIONS, tmp_path / "figure2.pdf", PLAIN)
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
        write_figure2([statistics], [path], OPTIONS, tmp_path / f"{name}.pdf", PLAIN)
    for suffix in (".pdf", ".png", ".csv"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


@pytest.fixture
def drawn(monkeypatch):
    """The figures as they were drawn, which the functions that write them do not return."""
    figures = []
    draw = figure.write_figure
    for module in ("figure1", "figure2"):
        monkeypatch.setattr(
            f"altq.report.{module}.write_figure",
            lambda drawn, *rest, **named: (figures.append(drawn), draw(drawn, *rest, **named)),
        )
    return figures


def test_no_legend_names_what_has_no_points(tmp_path, statistics, drawn):
    gains = [size * sign for size in range(1, NUM_BLOCKS + 1) for sign in (1, (-1) ** size)]  # attention, ffn, ...
    path = scores(tmp_path, "W3A3K3V3", gains)
    write_figure2([statistics], [path], OPTIONS, tmp_path / "figure2.pdf", PLAIN)
    legends = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in drawn[0].axes]
    assert legends == [["rotation better (8)"], ["rotation better (4)", "affine better (4)"]]


def test_negative_numbers_of_a_figure_have_minus_signs(tmp_path, statistics, drawn):
    path = scores(tmp_path, "W3A3K3V3", np.random.default_rng(1).normal(size=2 * NUM_BLOCKS))
    write_figure2([statistics], [path], OPTIONS, tmp_path / "figure2.pdf", PLAIN)
    titles = [axes.get_title(loc="left") for axes in drawn[0].axes]
    assert all(title.split(",")[1].startswith(" Tiny at") for title in titles)
    assert any("−0." in title for title in titles) and not any("-" in title for title in titles)


@pytest.mark.parametrize("num_blocks", [1, 2, 4, 7, 32])
def test_blocks_are_whole_numbers(num_blocks):
    with figure.panels(1, 1, (3.6, 2.3)) as (_, [[axes]]):
        axes.scatter(range(num_blocks), range(num_blocks))
        figure.number_blocks(axes)
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks and all(tick == int(tick) for tick in ticks)


def test_figure_2_needs_both_kinds(tmp_path, statistics):
    values = tuple({"affine": 1.0, "balance": 2.0} for _ in range(2 * NUM_BLOCKS))
    path = tmp_path / "scores/tiny/W3A3K3V3/seed0/oracle/scores.json"
    Scores("tiny", "reconstruction error", True, values).write(path)
    with pytest.raises(ValueError, match="compares affine, balance; Figure 2 needs affine and rotation"):
        write_figure2([statistics], [path], OPTIONS, tmp_path / "figure2.pdf", PLAIN)


def test_a_place_is_read_from_a_path(tmp_path):
    assert figure.place_of(tmp_path / "results/selections/m.v1/W3A3K2V2/seed12/oracle.json") == ("m.v1", "W3A3K2V2", 12)
    with pytest.raises(ValueError, match="not of the form <model>/<setting>/seed<k>"):
        figure.place_of(tmp_path / "results/selections/m/heuristic.json")
