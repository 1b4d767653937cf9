"""What the sections of an experiment have wrong with each other: a check for each pair that must agree."""

from collections.abc import Iterator
from itertools import product
from typing import Any

from altq.experiment.kinds import HALVES
from altq.experiment.windows import windows_beyond


def inconsistencies(sections: Any) -> list[str]:
    """What sections of an experiment, its attributes, have wrong with each other; one that is absent is not compared."""
    known = vars(sections)
    return [problem for needed, check in CHECKS if needed <= known.keys() for problem in check(sections)]


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
        for name, asked in windows_beyond(options, num_windows).items():
            yield f"{place}.{name} is {asked}, but calibration.num_windows is {num_windows}"


def _zero_shot_tasks(sections: Any) -> Iterator[str]:
    asking = [name for name, table in sections.study if getattr(table, "zero_shot", False)]
    if asking and not sections.tasks:
        yield f"study.{asking[0]}.zero_shot asks for zero-shot results, but there are no tasks"


CHECKS = (
    ({"calibration", "corpora"}, _calibration_corpus),
    ({"calibration", "models"}, _shards),
    ({"models", "selection"}, _rotations),
    ({"recipe", "selection", "baselines", "methods", "rounding", "calibration"}, _windows),
    ({"study", "tasks"}, _zero_shot_tasks),
)
"""Each check with the sections that it compares."""
