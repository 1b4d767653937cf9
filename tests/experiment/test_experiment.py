"""A configuration is refused before any work, with all its problems in one message; the shipped ones are accepted."""

import copy

import pytest
import yaml

from altq.experiment.baselines import BASELINES
from altq.experiment.experiment import Experiment
from altq.experiment.methods import BANKS, MEASURED_POLICIES, METHODS
from altq.experiment.setting import FULL

CONFIGURATIONS = ("config.yaml", "configs/smoke.yaml", "configs/paper.yaml")
SHIPPED = (*CONFIGURATIONS, "configs/gemma.yaml")


@pytest.fixture
def smoke(project):
    return yaml.safe_load((project / "configs" / "smoke.yaml").read_text())


def refused(config):
    with pytest.raises(ValueError, match="the configuration cannot be used") as caught:
        Experiment.parse(config)
    message = str(caught.value)
    assert message.startswith("the configuration cannot be used:\n")
    assert "pydantic" not in message and "Value error" not in message
    return message


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_are_accepted(project, name):
    Experiment.parse(yaml.safe_load((project / name).read_text()))


@pytest.mark.parametrize("name", SHIPPED)
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
def test_the_shipped_experiments_have_the_paper_s_methods(project, name):
    experiment = Experiment.parse(yaml.safe_load((project / name).read_text()))
    others = {"balance", *MEASURED_POLICIES}  # those of the study among them
    assert experiment.methods == [FULL, *(method for method in METHODS if method not in others)]
    if name != "configs/smoke.yaml":
        assert set(experiment.study.table7.policies) == {"affine", "rotation", "adaptive", *MEASURED_POLICIES}
    assert len(experiment.study.table7.seeds) >= 3


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
        if not bank.startswith("probe-"):
            assert experiment.recipe_of(bank) == expected
    assert experiment.recipe_of("affine").steps == experiment.recipe_of("flatquant").steps == 2
    assert experiment.recipe_of("affine").start != experiment.recipe_of("flatquant").start


def test_the_probe_takes_a_share_of_the_steps_rounded_up(smoke):
    smoke["recipe"] = {"steps": 41, "windows_per_step": 4}
    experiment = Experiment.parse(smoke)
    assert experiment.recipe_of("probe-rotation") == experiment.recipe.model_copy(update={"steps": 5})


def test_candidates_are_what_measured_policies_read_from(smoke):
    smoke["selection"]["candidates"] = ["balance", "rotation", "identity"]
    experiment = Experiment.parse(smoke)
    expected = {kind: kind for kind in ("balance", "rotation", "identity")}
    assert experiment.banks_of("oracle") == experiment.banks_of("random2") == expected
    assert (
        experiment.banks_of("adaptive") == experiment.banks_of("grid4") == {"affine": "affine", "rotation": "rotation"}
    )
    assert experiment.banks_of("quarot") == {"identity": "quarot"}


def test_the_grid_varies_beta_then_share_then_computes_beta(smoke):
    smoke["selection"]["heuristic"] = {"attention": {"count": 3}}
    smoke["study"]["table6"] = {
        "beta_attention": [0.1, 0.2], "beta_ffn": [0.9], "share_attention": [0.5], "share_ffn": [0.25, 0.75],
    }  # fmt: skip
    points = Experiment.parse(smoke).grid.named
    assert list(points) == ["grid0", "grid1", "grid2", "grid3", "grid4"]
    attention = [
        (p.attention.beta, p.attention.share, p.attention.count, p.attention.beta_rule) for p in points.values()
    ]
    assert attention == [
        (0.1, None, 3, "fixed"), (0.2, None, 3, "fixed"), (0.1, 0.5, None, "fixed"), (0.1, 0.5, None, "fixed"),
        (0.1, None, 3, "z_mass"),
    ]  # fmt: skip
    assert [(p.ffn.beta, p.ffn.share) for p in points.values()][2:4] == [(0.9, 0.25), (0.9, 0.75)]


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
        (("seeds",), [-1], "seeds.0: Input should be greater than or equal to 0"),
        (
            ("selection", "heuristic", "attention", "beta"),
            1.5,
            "selection.heuristic.attention.beta: Input should be less than or equal to 1",
        ),
        (
            ("selection", "heuristic", "ffn", "beta"),
            -0.1,
            "selection.heuristic.ffn.beta: Input should be greater than or equal to 0",
        ),
        (("selection", "heuristic", "ffn", "beta"), float("nan"), "selection.heuristic.ffn.beta: "),
        (
            ("selection", "heuristic", "attention", "count"),
            5,
            "selection.heuristic.attention.count is 5, but made has 4 blocks",
        ),
        (("selection", "heuristic", "ffn"), {"count": 1, "share": 0.5}, "give one of them"),
        (("calibration", "corpus"), "pydox", "calibration.corpus 'pydox' is not among the corpora"),
        (("calibration", "loss"), "mae", "calibration.loss: "),
        (("recipe", "windows_per_step"), 9, "recipe.windows_per_step is 9, but calibration.num_windows is 8"),
        (("recipe", "search_windows"), 9, "recipe.search_windows is 9, but calibration.num_windows is 8"),
        (("rounding", "windows"), 9, "rounding.windows is 9, but calibration.num_windows is 8"),
        (("rounding",), {}, "rounding.windows is 16, but calibration.num_windows is 8"),
        (("calibration", "num_windows"), 7, "rounding.windows is 8, but calibration.num_windows is 7"),
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
        (
            ("baselines", "flatquant", "search_windows"),
            9,
            "baselines.flatquant.search_windows is 9, but calibration.num_windows is 8",
        ),
        (("selection", "candidates"), ["affine"], "selection.candidates: "),
        (("selection", "candidates"), ["affine", "affine"], "a kind is listed twice: affine, affine"),
        (("selection", "candidates"), ["affine", "spin"], "selection.candidates.1: Input should be 'identity'"),
        (("selection", "search", "steps"), 0, "selection.search.steps: "),
        (("selection", "search", "windows_per_step"), 9, "selection.search.windows_per_step is 9, but calibration"),
        (("study", "table7", "seeds"), [0, 1], "study.table7.seeds: "),
        (("study", "table7", "seeds"), [0, 1, 1], "listed twice: 1"),
        (("study", "table7", "policies"), ["oracle"], "affine is missing, with which all others are compared"),
        (("study", "table7", "policies"), ["affine", "orcale"], "method 'orcale' is not known"),
        (("study", "table1", "settings"), ["W16A16K16V16"], "quantizes nothing"),
        (("study", "table6", "share_ffn"), [1.5], "study.table6.share_ffn.0: "),
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


@pytest.mark.parametrize(
    "change",
    [
        {"rounding": {"weights": "rtn", "windows": 16}},
        {"recipe": {"steps": 0, "clip_search": False, "search_windows": 9, "windows_per_step": 9}},
        {"baselines": {"spinquant": {"steps": 0, "windows_per_step": 9}, "flatquant": {"steps": 0}}},
    ],
    ids=["rtn", "nothing searched", "no steps"],
)
def test_windows_that_nothing_looks_at_are_not_counted(smoke, change):
    assert Experiment.parse(smoke | change)


@pytest.mark.parametrize("name", ["models", "corpora", "settings", "methods", "seeds", "calibration", "evaluation"])
def test_what_is_required_has_no_default(smoke, name):
    del smoke[name]
    assert f"{name}: Field required" in refused(smoke)


def test_all_problems_in_one_message(smoke):
    config = copy.deepcopy(smoke) | {"settings": ["W0A4K4V4"], "methods": ["gptq"], "colour": "red"}
    config["selection"] = {"heuristic": {"ffn": {"beta": 2}}}
    message = refused(config)
    for place in ("settings: ", "methods: ", "colour: ", "selection.heuristic.ffn.beta: "):
        assert f"\n  {place}" in message
    assert len(message.splitlines()) == 5


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (("selection", "num_random"), 10**9, "each is assembled and evaluated"),
        (("selection", "held_out_windows"), 10**9, "states of every window"),
        (("selection", "search", "steps"), 10**9, "take years"),
        (("selection", "search", "mixture_rate"), 1e300, "leave every start"),
        (("selection", "search", "entropy_weight"), 1e300, "nothing else would count"),
        (("seeds",), [2**63], "seeds of 63 bits"),
        (("seeds",), [10**4000], "seeds of 63 bits"),
        (("seeds",), list(range(20_000)), "is made for each"),
        (("study", "table7", "seeds"), list(range(20_000)), "is made for each"),
        (("study", "table7", "seeds"), [0, 1, 2**64], "seeds of 63 bits"),
        (("zero_shot", "seed"), 2**63, "seeds of 63 bits"),
        (("zero_shot", "limit"), 10**12, "no task has as many"),
        (("study", "table6", "beta_ffn"), [k / 100 for k in range(100)], "every pair of both halves"),
        (("recipe", "betas"), [1, 1], "Input should be less than 1"),
        (("recipe", "betas"), [0.9, -0.1], "Input should be greater than or equal to 0"),
        (("recipe", "learning_rate"), 1e300, "leave every start"),
        (("recipe", "clip_rate_factor"), 1e300, "nothing else would count"),
        (("recipe", "weight_decay"), 1e300, "nothing else would count"),
        (("recipe", "steps"), 10**9, "take years"),
        (("recipe", "windows_per_step"), 10**9, "states of every window"),
        (("recipe", "search_windows"), 10**9, "states of every window"),
        (("recipe", "longest_run"), 10**9, "no layer of a model"),
        (("baselines", "spinquant", "rotation_rate"), 1e300, "leave every start"),
        (("baselines", "ostquant", "scaling_rate"), 1e300, "leave every start"),
        (("baselines", "ostquant", "top_k"), 10**9, "no layer of a model"),
        (("baselines", "ostquant", "windows_in_memory"), 10**9, "states of every window"),
        (("rounding",), {"damping": 1e300}, "nothing else would count"),
        (("rounding",), {"windows": 10**9}, "states of every window"),
        (("rounding",), {"block_size": 10**9}, "no layer of a model"),
        (("calibration", "num_windows"), 10**9, "states of every window"),
        (("calibration", "window_length"), 10**9, "no model known here"),
        (("calibration", "shards"), 10**9, "hundreds of blocks at most"),
        (("evaluation", "num_windows"), 10**9, "states of every window"),
        (("evaluation", "window_length"), 10**9, "no model known here"),
        (("kernels",), {"rounds": 10**9}, "a round takes seconds"),
        (("models", "a" * 260), {"made": {}, "num_blocks": 4}, "255 bytes at most"),
        (("corpora", "a" * 260), {"module": "pydoc_data.topics"}, "255 bytes at most"),
        (("models", "made", "num_blocks"), 10**9, "hundreds of blocks at most"),
        (("models", "made", "made", "hidden_size"), 2**40, "made models are"),
        (("models", "made", "made", "seed"), 2**63, "seeds of 63 bits"),
        (("models", "made", "path"), "~no_such_user_here/model", "cannot be looked up"),
        (("models", "made", "path"), "a" * 300, "cannot be looked up"),
        (("models", "made", "path"), "a" * 5000, "has a length of 5,000"),
        (("models", "made", "shape"), {"hidden_size": 2**40}, "no layer of a model"),
        (("tasks", "hellaswag"), {"made": 10**9}, "made items are"),
        (("notes",), ["a" * 20_000], "printed under a table"),
        (("corpora", "c"), {"hub": "a/b@c", "files": {"x": "/etc/passwd"}}, "no file inside the repository"),
        (("corpora", "c"), {"hub": "a/b@c", "files": {"x": "../../x.txt"}}, "no file inside the repository"),
        (("corpora", "c"), {"hub": "a/b@c", "files": {"x": "file://x.txt"}}, "no file inside the repository"),
    ],
)
def test_what_is_too_much_is_refused_with_the_reason(smoke, place, value, reason):
    section = smoke
    for name in place[:-1]:
        section = section.setdefault(name, {})
    section[place[-1]] = value
    message = refused(smoke)
    assert reason in message and ".".join(map(str, place)) in message


def test_every_problem_of_a_list_is_in_the_message(smoke):
    smoke |= {"methods": ["gptq", "adaptve", "gptq"], "settings": ["W0A4K4V4", "W4", "W16A16K16V16"]}
    smoke["tasks"] = {"hellaswak": {"made": 12}, "piqu": {"made": 12}}
    message = refused(smoke)
    for problem in (
        "method 'gptq' is not known", "method 'adaptve' is not known; did you mean adaptive?",
        "0 bits for weights", "'W4' is not of the form", "W16A16K16V16 quantizes nothing",
        "task 'hellaswak' is not known; did you mean hellaswag", "task 'piqu' is not known; did you mean piqa",
    ):  # fmt: skip
        assert message.count(problem) == 1, problem


def test_sections_are_compared_though_another_is_wrong(smoke):
    smoke |= {"colour": "red", "notes": 3}
    smoke["calibration"]["corpus"] = "pydox"
    smoke["selection"]["heuristic"] = {"attention": {"count": 5}}
    smoke["recipe"]["windows_per_step"] = 9
    smoke["tasks"] = {"piqu": {"made": 12}}
    message = refused(smoke)
    for problem in (
        "colour: unknown key", "notes: ", "task 'piqu' is not known", "'pydox' is not among the corpora",
        "attention.count is 5, but made has 4 blocks", "recipe.windows_per_step is 9, but calibration.num_windows is 8",
    ):  # fmt: skip
        assert message.count(problem) == 1, problem


def test_a_section_that_is_wrong_is_not_compared(smoke):
    smoke["corpora"]["pydoc"] = {"hub": "org/name"}
    assert "is not among the corpora" not in refused(smoke)


@pytest.mark.parametrize("content", [[], None, "text", 3, {"models": []}, {"models": {"a": None}}, {1: 2}])
def test_what_is_no_configuration_at_all(content):
    refused(content)
