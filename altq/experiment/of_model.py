"""The experiment of one model: what the default one does, cut down to this model, its text and a method.

Imports nothing heavy. The result is the content of a configuration file, which can be edited and run like any other.
"""

import copy
from collections.abc import Sequence
from typing import Any

from altq.experiment.experiment import BaselineRecipes, Experiment
from altq.experiment.methods import METHODS
from altq.experiment.policies import SelectionOptions
from altq.experiment.recipe import Recipe
from altq.experiment.setting import FULL
from altq.experiment.sources import CorpusDescription, ModelDescription
from altq.experiment.windows import WindowReader, windows_beyond

KEPT = ("calibration", "recipe", "rounding", "selection", "evaluation")
"""Sections of the default experiment that say how a model is quantized and judged."""


def experiment_of_model(
    defaults: dict[str, Any],
    *,
    model: tuple[str, ModelDescription],
    corpus: tuple[str, CorpusDescription],
    settings: Sequence[str],
    method: str,
    num_windows: int,
    window_length: int,
    num_test_windows: int,
    seed: int,
) -> dict[str, Any]:
    """The content of a configuration that quantizes one model by one method at some settings; checked, ValueError.

    defaults: the content of the default configuration. model, corpus: name and description. The method is compared with
    the model in full precision on the held-out part of the corpus. Options that ask for more windows than there are ask
    for all.
    """
    content = {name: copy.deepcopy(defaults[name]) for name in KEPT}
    content["calibration"] |= {"corpus": corpus[0], "num_windows": num_windows, "window_length": window_length}
    content["evaluation"] |= {"num_windows": num_test_windows, "window_length": window_length}
    content["rounding"]["windows"] = num_windows
    selection = SelectionOptions.model_validate(content["selection"])
    content["recipe"] |= _at_most(num_windows, Recipe.model_validate(content["recipe"]))
    content["selection"]["search"] |= _at_most(num_windows, selection.search)
    if baselines := _baselines(defaults["baselines"], method, num_windows):
        content["baselines"] = baselines
    content = {
        "models": {model[0]: _given(model[1])},
        "corpora": {corpus[0]: _given(corpus[1])},
        "settings": list(settings),
        "methods": [FULL, method],
        "seeds": [seed],
        **content,
    }
    Experiment.parse(content)
    return content


def _baselines(given: dict[str, Any], method: str, num_windows: int) -> dict[str, Any]:
    """What is given of the recipe of a method, where it is a baseline, with the windows that there are."""
    recipes = BaselineRecipes.model_validate(copy.deepcopy(given))
    banks = set((METHODS[method].banks or {}).values()) if method in METHODS else set()
    options = {
        name: copy.deepcopy(given.get(name, {})) | _at_most(num_windows, recipe)
        for name, recipe in recipes
        if name in banks
    }
    return {name: recipe for name, recipe in options.items() if recipe}


def _at_most(num_windows: int, options: WindowReader) -> dict[str, int]:
    """Options that ask for more windows than there are, asking for all."""
    return dict.fromkeys(windows_beyond(options, num_windows), num_windows)


def _given(description: ModelDescription | CorpusDescription) -> dict[str, Any]:
    return description.model_dump(mode="json", exclude_unset=True, exclude_none=True)
