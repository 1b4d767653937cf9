"""Consistency of the sections of an experiment: a check for each set of sections that must agree."""

from collections.abc import Iterator
from itertools import product
from typing import Any

from altq.experiment.kinds import HALVES
from altq.experiment.methods import is_refined
from altq.experiment.windows import windows_beyond


def inconsistencies(sections: Any) -> list[str]:
    """Problems between the sections that `sections` has as attributes; checks of absent sections are skipped."""
    names = vars(sections).keys()
    return [problem for compared, check in CHECKS if compared <= names for problem in check(sections)]


def _calibration_corpus(sections: Any) -> Iterator[str]:
    if sections.calibration.corpus not in sections.corpora:
        yield f"calibration.corpus {sections.calibration.corpus!r} is not among the corpora"


def _shards(sections: Any) -> Iterator[str]:
    for name, model in sections.models.items():
        if sections.calibration.shards > model.num_blocks:
            yield f"calibration.shards is {sections.calibration.shards}, but {name} has {model.num_blocks} blocks"


def _rotations(sections: Any) -> Iterator[str]:
    for (name, model), half in product(sections.models.items(), HALVES):
        count = getattr(sections.selection.heuristic, half).count
        if count is not None and count > model.num_blocks:
            yield f"selection.heuristic.{half}.count is {count}, but {name} has {model.num_blocks} blocks"


def _windows(sections: Any) -> Iterator[str]:
    readers = {f"baselines.{name}": recipe for name, recipe in sections.baselines if name in sections.methods}
    readers |= {"recipe": sections.recipe, "selection.search": sections.selection.search, "rounding": sections.rounding}
    num_windows = sections.calibration.num_windows
    for place, options in readers.items():
        for name, count in windows_beyond(options, num_windows).items():
            yield f"{place}.{name} is {count}, but calibration.num_windows is {num_windows}"


def _zero_shot_tasks(sections: Any) -> Iterator[str]:
    zero_shot_tables = [name for name, table in sections.study if getattr(table, "zero_shot", False)]
    if zero_shot_tables and not sections.tasks:
        yield f"study.{zero_shot_tables[0]}.zero_shot asks for zero-shot results, but there are no tasks"


def _refinement(sections: Any) -> Iterator[str]:
    if sections.refinement is not None:
        return
    listed = {
        "methods": sections.methods,
        "zero_shot.methods": sections.zero_shot.methods,
        "zero_shot.reference": [sections.zero_shot.reference],
        "study.table7.policies": sections.study.table7.policies,
    }
    for place, methods in listed.items():
        if refined := [method for method in methods if is_refined(method)]:
            yield f"{place} has {refined[0]}, but there is no section `refinement` that says how it is refined"


CHECKS = (
    ({"calibration", "corpora"}, _calibration_corpus),
    ({"calibration", "models"}, _shards),
    ({"models", "selection"}, _rotations),
    ({"recipe", "selection", "baselines", "methods", "rounding", "calibration"}, _windows),
    ({"study", "tasks"}, _zero_shot_tasks),
    ({"refinement", "methods", "zero_shot", "study"}, _refinement),
)
"""Each check with the sections that it compares."""
