"""A configuration is refused before any work, with all its problems in one message; the shipped ones are accepted."""

import copy

import pytest
import yaml

from altq.configuration import Experiment
from altq.methods.baselines import BASELINES
from altq.methods.table import BANKS, FULL, METHODS

CONFIGURATIONS = ("config.yaml", "configs/smoke.yaml", "configs/paper.yaml")


@pytest.fixture
def smoke(project):
    return yaml.safe_load((project / "configs" / "smoke.yaml").read_text())


def refused(config):
    with pytest.raises(ValueError) as caught:
        Experiment.parse(config)
    message = str(caught.value)
    assert message.startswith("the configuration cannot be used:\n")
    assert "pydantic" not in message and "Value error" not in message
    return message


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_shipped_configurations_are_accepted(project, name):
    Experiment.parse(yaml.safe_load((project / name).read_text()))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_complete_configuration_says_the_same(project, name):
    experiment = Experiment.parse(yaml.safe_load((project / name).read_text()))
    assert Experiment.parse(experiment.model_dump(mode="json", exclude_unset=True)) == experiment


def test_the_default_configuration_spells_out_the_recipe(project):
    config = yaml.safe_load((project / "config.yaml").read_text())
    experiment = Experiment.parse(config)
    for section in ("recipe", "rounding"):
        assert config[section].keys() == type(getattr(experiment, section)).model_fields.keys()


def test_the_paper_to_the_letter(project):
    paper = Experiment.parse(yaml.safe_load((project / "configs" / "paper.yaml").read_text()))
    calibration = paper.calibration
    assert (calibration.num_windows, calibration.window_length, calibration.loss) == (128, 2048, "mse")
    assert (paper.recipe.unit, paper.recipe.scaling, paper.recipe.smooth_alpha) == ("sublayer", "smooth", 0.3)
    assert paper.recipe.start == "random" and not paper.recipe.clip_search and paper.recipe.learning_rate == 5e-3
    assert paper.recipe.steps == 15 * 128 // paper.recipe.windows_per_step
    assert paper.rounding.weights == "gptq"
    assert (paper.evaluation.num_windows, paper.evaluation.window_length) == (None, 2048)
    assert dict(paper.baselines) == BASELINES


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_shipped_experiments_have_every_method_but_balance(project, name):
    experiment = Experiment.parse(yaml.safe_load((project / name).read_text()))
    assert experiment.methods == [FULL, *(method for method in METHODS if method != "balance")]


def test_baselines_that_take_steps_have_our_budget_by_default(project):
    default = Experiment.parse(yaml.safe_load((project / "config.yaml").read_text()))
    ours = default.recipe.steps, default.recipe.windows_per_step
    for name, recipe in default.baselines:
        assert not BASELINES[name].steps or (recipe.steps, recipe.windows_per_step) == ours, name
    changed = {"steps", "windows_per_step"}
    for name, recipe in default.baselines:
        assert recipe.model_dump(exclude=changed) == BASELINES[name].model_dump(exclude=changed), name


def test_a_baseline_has_its_authors_recipe_but_for_what_is_given(smoke):
    smoke["baselines"] = {"flatquant": {"steps": 3}, "spinquant": {}}
    experiment = Experiment.parse(smoke)
    assert experiment.baselines.flatquant == BASELINES["flatquant"].model_copy(update={"steps": 3})
    for name in BASELINES.keys() - {"flatquant"}:
        assert getattr(experiment.baselines, name) == BASELINES[name]


def test_a_bank_is_calibrated_by_the_recipe_of_its_name(smoke):
    experiment = Experiment.parse(smoke)
    assert BASELINES.keys() <= BANKS.keys()
    for bank in BANKS:
        expected = getattr(experiment.baselines, bank) if bank in BASELINES else experiment.recipe
        assert experiment.recipe_of(bank) == expected
    assert experiment.recipe_of("affine").steps == experiment.recipe_of("flatquant").steps == 2
    assert experiment.recipe_of("affine").start != experiment.recipe_of("flatquant").start


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("setings",), ["W4A4K4V4"], "setings: unknown key"),
        (("recipe", "lr"), 1, "recipe.lr: unknown key"),
        (("methods",), ["afine"], "method 'afine' is not known; did you mean affine? (known: full, rtn,"),
        (("settings",), ["W0A4K4V4"], "setting W0A4K4V4: 0 bits for weights cannot be used; give one of 2, 3"),
        (("settings",), ["W17A4K4V4"], "17 bits for weights"),
        (("settings",), ["W4A4"], "not of the form W4A4K4V4"),
        (("settings",), ["W4A4K4V4", "W4A4KV4"], "listed twice: W4A4K4V4"),
        (("settings",), ["W16A16K16V16"], "list the method `full` instead"),
        (("settings",), [], "settings: "),
        (("seeds",), [-1], "seed -1 is negative"),
        (("selection", "attention", "beta"), 1.5, "selection.attention.beta: Input should be less than or equal to 1"),
        (("selection", "ffn", "beta"), -0.1, "selection.ffn.beta: Input should be greater than or equal to 0"),
        (("selection", "ffn", "beta"), float("nan"), "selection.ffn.beta: "),
        (("selection", "attention", "count"), 5, "selection.attention.count is 5, but made has 4 blocks"),
        (("selection", "ffn"), {"count": 1, "share": 0.5}, "give one of them"),
        (("calibration", "corpus"), "pydox", "calibration.corpus 'pydox' is not among the corpora"),
        (("calibration", "loss"), "mae", "calibration.loss: "),
        (("recipe", "windows_per_step"), 9, "recipe.windows_per_step is 9, but calibration.num_windows is 8"),
        (("recipe", "learning_rate"), 0, "recipe.learning_rate: "),
        (("recipe", "scaling"), True, "recipe.scaling: Input should be 'none', 'ones', 'balance' or 'smooth'"),
        (("recipe", "smooth_alpha"), 1.5, "recipe.smooth_alpha: Input should be less than or equal to 1"),
        (("recipe", "initial_clip"), 0, "recipe.initial_clip: Input should be greater than 0"),
        (("baselines", "flatqant"), {"steps": 1}, "baselines.flatqant: unknown key"),
        (("baselines", "flatquant", "lr"), 1, "baselines.flatquant.lr: unknown key"),
        (("baselines", "quarot", "learning_rate"), 1, "baselines.quarot.learning_rate: unknown key"),
        (("baselines", "spinquant", "steps"), -1, "baselines.spinquant.steps: "),
        (("baselines", "flatquant"), 8, "baselines.flatquant: "),
        (
            ("baselines", "ostquant", "windows_per_step"),
            9,
            "baselines.ostquant.windows_per_step is 9, but calibration.num_windows is 8",
        ),
        (("evaluation", "num_windows"), 1, "evaluation.num_windows: "),
        (("models", "made"), {"path": "/nowhere/model", "num_blocks": 4}, "local path '/nowhere/model' does not exist"),
        (("models", "made"), {"num_blocks": 4}, "models.made: no source is given; give exactly one of hub, wheel"),
        (("models", "made", "hub"), "a/b@c", "models.made: hub and made are given; give exactly one of"),
        (("models", "made", "num_blocks"), 0, "models.made.num_blocks: "),
        (("corpora", "pydoc"), {"path": "/nowhere/text.txt"}, "local path '/nowhere/text.txt' does not exist"),
        (("corpora", "pydoc"), {"hub": "org/name"}, "not of the form org/name@revision"),
    ],
)
def test_bad_input_is_named(smoke, place, value, said):
    section = smoke
    for name in place[:-1]:
        section = section.setdefault(name, {})
    section[place[-1]] = value
    assert said in refused(smoke)


@pytest.mark.parametrize("name", ["models", "corpora", "settings", "methods", "seeds", "calibration", "evaluation"])
def test_what_is_required_has_no_default(smoke, name):
    del smoke[name]
    assert f"{name}: Field required" in refused(smoke)


def test_all_problems_in_one_message(smoke):
    config = copy.deepcopy(smoke) | {"settings": ["W0A4K4V4"], "methods": ["gptq"], "colour": "red"}
    config["selection"] = {"ffn": {"beta": 2}}
    message = refused(config)
    for place in ("settings: ", "methods: ", "colour: ", "selection.ffn.beta: "):
        assert f"\n  {place}" in message
    assert len(message.splitlines()) == 5
