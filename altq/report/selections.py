"""The selection behind a perplexity result, and the processor time of choosing and of calibrating it."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from altq.report.results import REMEDY
from altq.runtime.lineage import assemblies
from altq.runtime.provenance import recorded_path
from altq.selection.selection import Selection

CHOOSING = ("statistics", "search", "reconstruction", "predict", "calibrate", "assemble", "perplexity", "select")
"""The stages that a choice may need; models, tokens and states are the same for all."""


def read_selections(paths: Iterable[Path]) -> dict[str, Selection]:
    """Read selections, by their paths, as results name them."""
    return {recorded_path(path): Selection.read(path) for path in paths}


def selection_of(result: Mapping[str, Any], selections: Mapping[str, Selection]) -> Selection:
    """Find the selection that a result was assembled from; ValueError where it is not among `selections`."""
    path = _assembled_from(result, "select")[0]
    if path not in selections:
        raise ValueError(f"{path}, the selection behind a result of {result['method']}, is not given")
    return selections[path]


def selection_seconds(result: Mapping[str, Any]) -> float:
    """Sum the processor seconds of all that came before the selection, its own statistics and banks too."""
    history = result["provenance"]["upstream"]
    waiting, stages = list(_assembled_from(result, "select")), set()
    while waiting:
        path = waiting.pop()
        if path not in stages and history.get(path, {}).get("command") in CHOOSING:
            stages.add(path)
            waiting += history[path]["inputs"]
    return math.fsum(_seconds(result, path) for path in stages)


def calibration_seconds(result: Mapping[str, Any], selection: Selection) -> float:
    """Sum the processor seconds of calibrating a selection: of each bank the share of sublayers read from it.

    ValueError for a result without the record of one of its banks.
    """
    history = result["provenance"]["upstream"]
    banks = {history[path]["options"].get("kind"): path for path in _assembled_from(result, "calibrate")}
    if missing := sorted(set(selection.kinds) - banks.keys()):
        raise ValueError(f"a result of {result['method']} has no bank of {', '.join(missing)} behind it; {REMEDY}")
    return math.fsum(_seconds(result, banks[kind]) for kind in selection.kinds) / len(selection.kinds)


def _seconds(result: Mapping[str, Any], path: str) -> float:
    seconds = result["provenance"]["upstream"][path].get("processor_seconds")
    if seconds is None:
        raise ValueError(f"the history of a result of {result['method']} does not say what {path} took; {REMEDY}")
    return seconds


def _assembled_from(result: Mapping[str, Any], command: str) -> list[str]:
    """List the inputs of a result's checkpoint that a command made; ValueError where there is none."""
    history = result["provenance"]["upstream"]
    inputs = [
        path
        for checkpoint in assemblies(result["provenance"]["inputs"], history)
        for path in history[checkpoint]["inputs"]
        if history.get(path, {}).get("command") == command
    ]
    if not inputs:
        raise ValueError(f"a result of {result['method']} has no history of `altq {command}`; {REMEDY}")
    return inputs
