"""The methods, as data: a row of the tables is a policy that chooses kinds, and the banks that they are read from.

The rest of the pipeline is shared. A bank is named after its kind where our own recipe calibrates it, and after the
baseline whose recipe does.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Method:
    """label: name in the tables. policy: which selection file. banks: kind -> the bank that holds it.

    A kind that has no bank here is not calibrated: `identity` is round-to-nearest with neither transform nor clipping.
    """

    label: str
    policy: str
    banks: dict[str, str] = field(default_factory=dict)


FULL = "full"
"""The full-precision model: no selection, no checkpoint of its own."""

METHODS: dict[str, Method] = {
    "rtn": Method("No transform", "identity"),
    "smoothquant": Method("SmoothQuant", "scaling", {"scaling": "smoothquant"}),
    "quarot": Method("QuaRot", "identity", {"identity": "quarot"}),
    "spinquant": Method("SpinQuant", "identity", {"identity": "spinquant"}),
    "ostquant": Method("OSTQuant", "scaling", {"scaling": "ostquant"}),
    "flatquant": Method("FlatQuant", "affine", {"affine": "flatquant"}),
    "affine": Method("Affine", "affine", {"affine": "affine"}),
    "rotation": Method("Rotation", "rotation", {"rotation": "rotation"}),
    "balance": Method("Balance", "balance", {"balance": "balance"}),
    "adaptive": Method("Adaptive", "heuristic", {"affine": "affine", "rotation": "rotation"}),
}


BANKS: dict[str, str] = {bank: kind for method in METHODS.values() for kind, bank in method.banks.items()}
"""The kind that each bank holds at the sites that are selected."""
