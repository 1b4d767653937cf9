"""The experiment, as config.yaml describes it: every option, its default and its check.

All problems of a configuration are reported in one message before any work begins. Nothing heavy is imported here.
"""

import math
from itertools import product
from types import SimpleNamespace
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, field_validator, model_validator

from altq.experiment.baselines import BASELINES, FLATQUANT, OSTQUANT, QUAROT, SMOOTHQUANT, SPINQUANT
from altq.experiment.border_spacing import BorderOptions
from altq.experiment.bounds import AtMost, NumBlocks, NumWindows, Seeds, Sentence, WindowLength
from altq.experiment.consistency import inconsistencies
from altq.experiment.end_to_end_recipe import EndToEndRecipe
from altq.experiment.methods import METHODS, PROBE, REFINED, method_of
from altq.experiment.policies import Grid, HeuristicOptions, SelectionOptions
from altq.experiment.recipe import Recipe
from altq.experiment.refinement import RefinementOptions
from altq.experiment.rounding import RoundingOptions
from altq.experiment.section import Section, problems_of
from altq.experiment.setting import FULL
from altq.experiment.sources import CorpusDescription, ModelDescription, TaskDescription
from altq.experiment.study import (
    Study,
    Table,
    ZeroShotOptions,
    checked_methods,
    checked_settings,
    distinct,
    each_checked,
)
from altq.experiment.tasks import TASKS, checked_task
from altq.experiment.windows import BosOption

Name = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"),
    AtMost(100, "files are named after it, whose names have 255 bytes at most"),
]
"""A name that can be part of a path."""


class CalibrationOptions(BorderOptions):
    """The text that calibration sees, how its loss weights tokens, and what of it is stored."""

    corpus: str = Field(description="corpus whose calibration split is used")
    num_windows: NumWindows = Field(description="number of windows drawn at random starts")
    window_length: WindowLength = Field(description="tokens in a window")
    loss: str = Field(
        "relative",
        pattern="^(relative|mse)$",
        description="mse (the paper's), or relative: each token weighted by the inverse mean square of its residual",
    )
    bos: BosOption = None
    shards: NumBlocks = Field(1, description="jobs that each bank is split into, by ranges of blocks; the same bits")


class BaselineRecipes(Section):
    """The baselines' recipes: their authors' (altq/experiment/baselines.py), but for the keys that are given here."""

    smoothquant: Recipe = SMOOTHQUANT
    quarot: EndToEndRecipe = QUAROT
    spinquant: EndToEndRecipe = SPINQUANT
    ostquant: EndToEndRecipe = OSTQUANT
    flatquant: Recipe = FLATQUANT

    @model_validator(mode="before")
    @classmethod
    def _over_the_authors(cls, recipes: Any) -> Any:
        if not isinstance(recipes, dict):
            return recipes
        names = [name for name in BASELINES if isinstance(recipes.get(name), dict)]
        authors = {name: BASELINES[name].model_dump() for name in names}
        return recipes | {name: recipe | recipes[name] for name, recipe in authors.items()}


class EvaluationOptions(Section):
    """Perplexity over non-overlapping windows of the test split."""

    num_windows: NumWindows | None = Field(
        None, ge=2, description="windows from the start of the split; all when absent"
    )
    window_length: WindowLength = Field(description="tokens in a window")
    bos: BosOption = None


class KernelOptions(Section):
    """Table 5: the speed of the kernels."""

    rounds: Annotated[int, AtMost(10_000, "a round takes seconds")] = Field(
        7, ge=3, description="turns in which the cases of a group are timed"
    )
    gpu: bool = Field(False, description="whether they are timed on a GPU as well; it has to be there")


class Experiment(Section):
    """The whole of config.yaml."""

    models: dict[Name, ModelDescription] = Field(min_length=1, description="models, by the name used in results/")
    corpora: dict[Name, CorpusDescription] = Field(min_length=1, description="corpora, by the name used in results/")
    tasks: dict[str, TaskDescription] = Field({}, description=f"data of zero-shot tasks: {', '.join(TASKS)}")
    settings: list[str] = Field(min_length=1, description="bit widths, written W4A4K4V4")
    methods: list[str] = Field(
        min_length=1, description=f"{FULL}, {', '.join(METHODS)}; all but {FULL} with {REFINED} behind, too"
    )
    seeds: Seeds = Field(min_length=1, description="calibration seeds: tokens and starts")
    calibration: CalibrationOptions
    recipe: Recipe = Recipe()
    baselines: BaselineRecipes = BaselineRecipes()
    rounding: RoundingOptions = RoundingOptions()
    refinement: RefinementOptions | None = Field(
        None, description=f"how methods with {REFINED} behind their name are refined; none can be listed when absent"
    )
    selection: SelectionOptions = SelectionOptions()
    study: Study = Study()
    evaluation: EvaluationOptions
    zero_shot: ZeroShotOptions = ZeroShotOptions()
    kernels: KernelOptions = KernelOptions()
    notes: list[Sentence] = Field(default=[], description="sentences that begin the protocol of every table")

    @field_validator("tasks")
    @classmethod
    def _in_the_papers_order(cls, tasks: dict[str, TaskDescription]) -> dict[str, TaskDescription]:
        each_checked(list(tasks), checked_task)
        return {name: tasks[name] for name in TASKS if name in tasks}

    @field_validator("settings")
    @classmethod
    def _parse_settings(cls, settings: list[str]) -> list[str]:
        return checked_settings(settings)

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, methods: list[str]) -> list[str]:
        return checked_methods(methods, [FULL, *METHODS])

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, seeds: list[int]) -> list[int]:
        return distinct(seeds)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if problems := inconsistencies(self):
            raise ValueError("; ".join(problems))
        return self

    def recipe_of(self, bank: str) -> Recipe | EndToEndRecipe:
        """Recipe of a bank: the baseline's if the bank is named after one, ours otherwise.

        The probe's banks take a share of its steps.
        """
        if bank in BASELINES:
            return getattr(self.baselines, bank)
        if bank.startswith(PROBE):
            return self.recipe.model_copy(update={"steps": math.ceil(self.recipe.steps * self.selection.probe_share)})
        return self.recipe

    def banks_of(self, method: str) -> dict[str, str]:
        """The banks that a method reads, by kind: its own, or those of the candidates."""
        banks = method_of(method).banks
        return {kind: kind for kind in self.selection.candidates} if banks is None else banks

    def settings_of(self, table: Table) -> list[str]:
        """The settings that a table covers."""
        return table.settings or self.settings

    @property
    def zero_shot_methods(self) -> list[str]:
        """The methods of Table 3."""
        return self.zero_shot.methods or self.methods

    @property
    def random_methods(self) -> list[str]:
        """The random selections, by the names of their methods."""
        return [f"random{number}" for number in range(self.selection.num_random)]

    @property
    def grid(self) -> Grid:
        """The points of Table 6: both grids, then beta by z-mass (Eq. 11-12)."""
        table, middle = self.study.table6, self.selection.heuristic
        points = [
            {"beta": pair, "beta_rule": ("fixed", "fixed")} for pair in product(table.beta_attention, table.beta_ffn)
        ]
        points += [{"share": pair} for pair in product(table.share_attention, table.share_ffn)]
        points += [{"beta_rule": ("z_mass", "z_mass")}]
        return Grid(points=tuple(_varied(middle, point) for point in points))

    @classmethod
    def parse(cls, config: dict[str, Any]) -> "Experiment":
        """Parse and check a configuration; ValueError lists every problem with its place."""
        try:
            return cls.model_validate(config)
        except ValidationError as error:
            problems = problems_of(error, "config") + cls._other_inconsistencies(error, config)
            raise ValueError("\n".join(["the configuration cannot be used:", *(f"  {p}" for p in problems)])) from None

    @classmethod
    def _other_inconsistencies(cls, error: ValidationError, config: Any) -> list[str]:
        """Problems between the sections that are valid by themselves, for a message about one that is not."""
        invalid = {e["loc"][0] for e in error.errors() if e["loc"]}
        if not invalid or not isinstance(config, dict):
            return []
        fields = {name: field for name, field in cls.model_fields.items() if name not in invalid}
        sections = {
            name: TypeAdapter[Any](field.rebuild_annotation()).validate_python(config[name])
            for name, field in fields.items()
            if name in config
        }
        defaults = {name: field.get_default() for name, field in fields.items() if name not in config}
        return [f"config: {problem}" for problem in inconsistencies(SimpleNamespace(**defaults | sections))]


def _varied(options: HeuristicOptions, point: dict[str, tuple[Any, Any]]) -> HeuristicOptions:
    """The heuristic with the given options of attention and ffn; a share takes the place of a count."""
    halves = {}
    for position, half in enumerate(("attention", "ffn")):
        values = getattr(options, half).model_dump() | {name: pair[position] for name, pair in point.items()}
        halves[half] = values | {"count": None} if "share" in point else values
    return HeuristicOptions.model_validate(halves)
