"""The section `refinement`: off unless it is there, and complete where a method asks for it."""

import pytest
import yaml

from altq.experiment.experiment import Experiment
from altq.experiment.refinement import RefinementOptions, RefinementRecipe
from altq.report import protocol


@pytest.fixture
def config(project):
    return yaml.safe_load((project / "config.yaml").read_text())


def test_it_is_off_by_default(config):
    assert Experiment.parse(config).refinement is None
    assert not [e for e in protocol.table2(Experiment.parse(config)).protocol if e.key.startswith("refinement")]


@pytest.mark.parametrize(
    ("place", "changed"),
    [
        ("methods", {"methods": ["affine", "affine_refined"]}),
        ("zero_shot.methods", {"zero_shot": {"methods": ["full", "quarot_refined"]}}),
        ("zero_shot.reference", {"zero_shot": {"reference": "flatquant_refined"}}),
        ("study.table7.policies", {"study": {"table7": {"policies": ["affine", "oracle_refined"]}}}),
    ],
)
def test_a_refined_method_needs_the_section(config, place, changed):
    with pytest.raises(ValueError, match=rf"{place} has \w+_refined, but there is no section `refinement`"):
        Experiment.parse(config | changed)
    Experiment.parse(config | changed | {"refinement": {}})


@pytest.mark.parametrize("method", ["full_refined", "affine_refined_refined", "_refined", "afine_refined"])
def test_what_cannot_be_refined_is_unknown(config, method):
    with pytest.raises(ValueError, match=f"method '{method}' is not known"):
        Experiment.parse(config | {"methods": ["affine", method], "refinement": {}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows_per_step": 9, "windows": 8}, "windows_per_step is 9, but there are 8 windows"),
        ({"steps": 0}, "refinement.steps"),
        ({"rate": 0}, "refinement.rate"),
        ({"held_out_windows": 0}, "refinement.held_out_windows"),
        ({"loss": "kl"}, "unknown key"),
    ],
)
def test_options_that_cannot_be(config, options, message):
    with pytest.raises(ValueError, match=message):
        Experiment.parse(config | {"refinement": options})


def test_the_stage_is_told_all_but_the_number_of_windows():
    options = RefinementOptions(steps=3, rate=0.1, windows=7)
    assert options.recipe == RefinementRecipe(steps=3, rate=0.1)


def test_the_protocol_says_what_is_refined_and_how(config):
    def told(methods):
        rows = protocol.table2(Experiment.parse(config | {"methods": methods, "refinement": {"rate": 0.003}})).protocol
        return {entry.key: entry.here for entry in rows}

    both = told(["adaptive", "adaptive_refined", "quarot_refined"])
    assert both["refinement"].startswith("of Adaptive, refined and QuaRot, refined: with all codes")
    assert both["refinement.rate"] == "0.003" and both["refinement.windows"] == "64"
    alone = told(["quarot_refined"])
    assert "QuaRot" in alone["baselines"], "of what is refined all is told, too"
    assert "refinement" not in told(["adaptive"])
