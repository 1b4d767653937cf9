"""Options in words: the values of the configuration as a protocol prints them, and which of them matter."""

from collections.abc import Collection, Iterable
from typing import Any

from pydantic import BaseModel

from altq.report.presentation import Entry, numeral

BOS = {
    None: "as published evaluations of each model's family have it",
    "never": "none",
    "document": "before the whole split",
    "window": "before each window",
}

WORDS: dict[str, dict[str, Any]] = {
    "calibration": {
        "num_windows": "{}",
        "window_length": "{} tokens",
        "loss": {"mse": "mean squared error", "relative": "relative to each token's mean square"},
        "bos": BOS,
    },
    "recipe": {
        "unit": {"sublayer": "sublayer by sublayer", "block": "block by block"},
        "start": {
            "balance": "closed form (balance)",
            "hadamard": "Hadamard",
            "random": "random orthogonal",
            "cayley": "Cayley",
        },
        "structure": {"kronecker": "two Kronecker factors", "full": "a full matrix"},
        "longest_run": "{} channels",
        "scaling": {
            "none": "none",
            "ones": "per channel, from 1 on",
            "balance": "per channel, closed form",
            "smooth": "per channel, SmoothQuant's",
        },
        "smooth_alpha": "{}",
        "other_sites": {
            "affine": "affine transforms at o, down, key and value",
            "scaling": "scalings alone at o, down and value",
        },
        "initial_clip": "{}",
        "clip_search": {True: "on a grid", False: "none"},
        "signed_scale": {True: "either sign", False: "positive"},
        "zero_point": {True: "weights with a zero point", False: "weights without a zero point"},
        "steps": "{}",
        "fitted": "{}",
        "windows_per_step": "{}",
        "learning_rate": "{}",
        "clip_rate_factor": "{}",
        "betas": "{}",
        "weight_decay": "{}",
    },
    "end_to_end": {
        "trained": "{}",
        "shared_value": {True: "one for all heads", False: "one for each head"},
        "loss": {"cross_entropy": "cross-entropy", "kl_top": "KL divergence over the likeliest tokens"},
        "top_k": "{} tokens",
        "optimiser": {"cayley_sgd": "Cayley SGD", "riemannian_adam": "Riemannian Adam"},
        "rotation_rate": "{}",
        "scaling_rate": "{}",
        "steps": "{}",
        "windows_per_step": "{}",
        "activation_clip": "{}",
        "cache_clip": "{}",
        "asymmetric": {True: "with a zero point", False: "symmetric"},
        "zero_point": {True: "weights with a zero point", False: "weights without a zero point"},
        "weight_clip": {True: "rows clipped", False: "rows not clipped"},
    },
    "heuristic": {
        "share": "{}",
        "count": "{} layers",
        "beta": "{}",
        "beta_rule": {"fixed": "fixed", "z_mass": "by z-mass (Eq. 11-12)"},
        "score": {"sum": "sum of the projections' kurtosis", "concat": "kurtosis of the projections together"},
    },
    "search": {
        "entropy_weight": "{} of the first reconstruction error",
        "steps": "{}",
        "windows_per_step": "{}",
        "mixture_rate": "{}",
    },
    "rounding": {"weights": {"gptq": "GPTQ", "rtn": "to nearest"}, "windows": "{}"},
    "refinement": {
        "steps": "{}",
        "windows_per_step": "{}",
        "rate": "{}",
        "betas": "{}",
        "judged_every": "{} steps, by the held-out loss, the best of which is kept",
        "windows": "{}",
        "held_out_windows": "{}",
    },
    "evaluation": {"num_windows": "{}", "window_length": "{} tokens", "bos": BOS},
}
"""The words of each option's values, by section: one for each value, or a form with a place for it.

`recipe` is a `Recipe`, `end_to_end` an `EndToEndRecipe`, `heuristic` the `TailOptions` of one half. A protocol leaves
out options that are not here.
"""

OF_STEPS = (
    "fitted", "trained", "loss", "top_k", "optimiser", "rotation_rate", "scaling_rate", "windows_per_step",
    "learning_rate", "clip_rate_factor", "betas", "weight_decay",
)  # fmt: skip
"""Options of a recipe that change nothing where no step is taken."""

OF_KIND = {"structure": "rotation", "longest_run": "balance"}
"""Options that only one kind of transformation has."""


def in_words(section: str, name: str, value: Any) -> str:
    """Print the value of an option, e.g. "512 tokens"."""
    words = WORDS[section][name]
    return words[value] if isinstance(words, dict) else words.format(_text(value))


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


def entries(place: str, section: str, ours: BaseModel, theirs: BaseModel, names: Iterable[str]) -> list[Entry]:
    """Set the options `names` of a section beside those of the paper, or of a baseline's authors.

    place: where the section stands in the configuration, e.g. "baselines.spinquant".
    """
    return [
        Entry(f"{place}.{name}", *(in_words(section, name, getattr(options, name)) for options in (ours, theirs)))
        for name in names
    ]


def listed(texts: Iterable[str]) -> str:
    """Join texts as prose does: "a, b and c"."""
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return listed(map(_text, value)) if value else "nothing"
    return "all" if value is None else value if isinstance(value, str) else numeral(value, "g")
