"""What rows are called in the tables: methods and weight roundings."""

from altq.experiment.methods import FULL, METHODS

ROUNDINGS = {"rtn": "RTN", "gptq": "GPTQ"}


def method_label(method: str, weights: str, several_roundings: bool) -> str:
    """The rounding is part of the name where rows differ in it, and always where it is the whole method."""
    if method == FULL:
        return "Full precision"
    label = METHODS[method].label if method in METHODS else method
    if several_roundings or method == "rtn":
        return f"{label} ({ROUNDINGS.get(weights, weights)})"
    return label
