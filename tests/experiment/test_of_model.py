"""The experiment of one model: the default one cut down, and checked like any other."""

import copy

import pytest
import yaml

from altq.experiment.experiment import Experiment
from altq.experiment.of_model import experiment_of_model
from altq.experiment.sources import CorpusDescription, ModelDescription

MODEL = ("mine", ModelDescription(made={"seed": 0}, num_blocks=2))
CORPUS = ("notes", CorpusDescription(module="pydoc_data.topics"))


@pytest.fixture(scope="module")
def defaults(project):
    return yaml.safe_load((project / "config.yaml").read_text())


def made(defaults, **changes):
    options = {
        "settings": ["W4A4K4V4"], "method": "adaptive", "num_windows": 16, "window_length": 64, "num_test_windows": 5,
        "seed": 3,
    }  # fmt: skip
    return experiment_of_model(defaults, model=MODEL, corpus=CORPUS, **options | changes)


def test_it_compares_the_method_with_full_precision_on_held_out_text(defaults):
    before = copy.deepcopy(defaults)
    experiment = Experiment.parse(made(defaults))
    assert defaults == before
    assert experiment.methods == ["full", "adaptive"] and experiment.seeds == [3]
    assert [*experiment.models, *experiment.corpora, experiment.calibration.corpus] == ["mine", "notes", "notes"]
    assert (experiment.evaluation.num_windows, experiment.evaluation.window_length) == (5, 64)
    assert experiment.recipe == Experiment.parse(before).recipe
    assert not experiment.tasks


@pytest.mark.parametrize("method", ["adaptive", "spinquant", "flatquant"])
def test_few_windows_are_all_that_anything_asks_for(defaults, method):
    experiment = Experiment.parse(made(defaults, method=method, num_windows=1))
    assert experiment.rounding.windows == experiment.recipe.search_windows == experiment.recipe.windows_per_step == 1


def test_many_windows_are_used_by_the_rounding_too(defaults):
    assert made(defaults, num_windows=128)["rounding"]["windows"] == 128


def test_a_baseline_keeps_the_budget_of_the_default_experiment(defaults):
    assert made(defaults, method="spinquant")["baselines"] == {"spinquant": {"steps": 8, "windows_per_step": 2}}
    assert "baselines" not in made(defaults)


def test_what_it_cannot_be_is_refused_like_any_configuration(defaults):
    with pytest.raises(ValueError, match=r"seeds.0: Input should be greater than or equal to 0"):
        made(defaults, seed=-1)
