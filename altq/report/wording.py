"""Options in words: how a value of the configuration is said, where it matters, and how two recipes differ."""

from collections.abc import Collection, Iterable
from typing import Any

from pydantic import BaseModel

SAID: dict[str, dict[str, Any]] = {
    "calibration": {
        "num_windows": "{} calibration windows",
        "window_length": "calibration windows of {} tokens",
        "loss": {"mse": "mean squared error", "relative": "loss relative to each token's mean square"},
    },
    "recipe": {
        "unit": {"sublayer": "fitted sublayer by sublayer", "block": "fitted block by block"},
        "start": {
            "balance": "closed-form (balance) starts",
            "hadamard": "Hadamard starts",
            "random": "random orthogonal starts",
            "cayley": "Cayley starts",
        },
        "structure": {"kronecker": "rotations of two Kronecker factors", "full": "full rotations"},
        "longest_run": "runs of at most {} channels for balance",
        "scaling": {
            "none": "no per-channel scaling",
            "ones": "per-channel scaling from 1 on",
            "balance": "per-channel scaling in closed form",
            "smooth": "SmoothQuant's per-channel scaling",
        },
        "smooth_alpha": "alpha {}",
        "other_sites": {
            "affine": "affine transforms at o, down, key and value",
            "scaling": "scalings alone at o, down and value",
        },
        "initial_clip": "clipping from {} on",
        "clip_search": {True: "clipping searched on a grid", False: "no search for clipping"},
        "signed_scale": {True: "scales of either sign", False: "positive scales"},
        "steps": "{} optimiser steps",
        "fitted": "steps spent on {}",
        "windows_per_step": "{} windows a step",
        "learning_rate": "learning rate {}",
        "clip_rate_factor": "clipping learned {} times as fast",
        "betas": "Adam's decay rates {}",
        "weight_decay": "weight decay {}",
    },
    "end_to_end": {
        "trained": "steps spent on {}",
        "shared_value": {True: "one rotation of values for all heads", False: "a rotation of values for each head"},
        "loss": {"cross_entropy": "cross-entropy", "kl_top": "KL divergence over the likeliest tokens"},
        "top_k": "the {} likeliest tokens",
        "optimiser": {"cayley_sgd": "Cayley SGD", "riemannian_adam": "Riemannian Adam"},
        "rotation_rate": "learning rate {} of rotations",
        "scaling_rate": "learning rate {} of scalings",
        "steps": "{} optimiser steps",
        "windows_per_step": "{} windows a step",
        "activation_clip": "activations clipped at {}",
        "cache_clip": "keys and values clipped at {}",
        "asymmetric": {True: "asymmetric activations", False: "symmetric activations"},
        "weight_clip": {True: "weight rows clipped", False: "weight rows not clipped"},
    },
    "search": {
        "entropy_weight": "entropy weighted by {} of the first reconstruction error",
        "steps": "{} steps of the search",
        "windows_per_step": "{} windows in each",
        "mixture_rate": "learning rate {} of its mixture",
    },
    "rounding": {
        "weights": {"gptq": "GPTQ", "rtn": "weights rounded to nearest"},
        "windows": "Hessians summed over {} windows",
    },
    "evaluation": {"num_windows": "{} evaluation windows", "window_length": "evaluation windows of {} tokens"},
}
"""How each option is said, by section: a phrase for each value, or one with a place for it.

`recipe` says a `Recipe`, `end_to_end` an `EndToEndRecipe`. Options that are not here are not said.
"""

OF_STEPS = (
    "fitted", "trained", "loss", "top_k", "optimiser", "rotation_rate", "scaling_rate", "windows_per_step",
    "learning_rate", "clip_rate_factor", "betas", "weight_decay",
)  # fmt: skip
"""Options of a recipe that say nothing where no step is taken."""

OF_KIND = {"structure": "rotation", "longest_run": "balance"}
"""Options that only one kind of transformation has."""


def say(section: str, name: str, value: Any) -> str:
    """One option in words, e.g. "learning rate 0.002"."""
    said = SAID[section][name]
    return said[value] if isinstance(said, dict) else said.format(_text(value))


def matters(recipe: BaseModel, name: str, kinds: Collection[str]) -> bool:
    """Whether an option of a recipe can change its banks, which hold these kinds."""
    if name in OF_KIND and OF_KIND[name] not in kinds:
        return False
    if name in OF_STEPS and not recipe.steps:
        return False
    match name:
        case "smooth_alpha":
            return recipe.scaling == "smooth"
        case "top_k":
            return recipe.loss == "kl_top"
        case "scaling_rate":
            return "scaling" in recipe.trained
        case _:
            return True


def differences(section: str, ours: BaseModel, theirs: BaseModel, whose: str, names: Iterable[str]) -> list[str]:
    """What `ours` has otherwise in the options `names`, each with the other value: "8 steps (authors: 100)"."""
    found = []
    for name in names:
        value, other = getattr(ours, name), getattr(theirs, name)
        if value != other:
            said = SAID[section][name]
            compared = said[other] if isinstance(said, dict) else _text(other)
            found.append(f"{say(section, name, value)} ({whose}: {compared})")
    return found


def listed(texts: Iterable[str]) -> str:
    """Texts in a row, as prose has them: "a, b and c"."""
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return listed(map(_text, value)) if value else "nothing"
    return "all" if value is None else value if isinstance(value, str) else f"{value:g}"
