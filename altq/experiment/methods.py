"""The methods, as data: a row of the tables is a policy that chooses kinds, and the banks that they are read from.

The rest of the pipeline is shared. A bank is named after its kind where our own recipe calibrates it, and after the
baseline whose recipe does.
"""

from dataclasses import dataclass, field, replace

from altq.experiment.kinds import KINDS


@dataclass(frozen=True)
class Method:
    """A row of the tables.

    label: its name there. policy: of its selections. banks: kind -> name of the bank that holds it.

    A kind that has no bank here is not calibrated: `identity` is round-to-nearest with neither transform nor clipping.
    Without `banks` (None) a policy chooses among the candidates of the configuration, each in the bank of its name.
    """

    label: str
    policy: str
    banks: dict[str, str] | None = field(default_factory=dict)


PAPER_BANKS = {"affine": "affine", "rotation": "rotation"}
"""The paper's two kinds, calibrated by our recipe."""

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
    "adaptive": Method("Adaptive", "heuristic", PAPER_BANKS),
    "learned": Method("Learned", "learned", None),
    "oracle": Method("Oracle", "oracle", None),
    "probe": Method("Probe", "probe", None),
    "predicted": Method("Predicted", "predicted", None),
    "best_random": Method("Best random", "best_random", None),
}

NUMBERED_METHODS: dict[str, dict[str, str] | None] = {"random": None, "grid": PAPER_BANKS}
"""The banks of methods that are numbered: random3 is the fourth random selection, grid5 the sixth heuristic."""

REFINED = "_refined"
"""Suffix of the method whose checkpoints are those of another, refined: adaptive_refined."""

MEASURED_POLICIES = tuple(method.policy for method in METHODS.values() if method.banks is None)
"""Policies that choose by measurements at a setting and seed; all others depend on neither."""

PROBE = "probe-"
"""Prefix of a bank that is calibrated with a share of the recipe's steps."""

BANKS: dict[str, str] = {
    **{bank: kind for method in METHODS.values() for kind, bank in (method.banks or {}).items()},
    **{kind: kind for kind in KINDS},
    **{f"{PROBE}{kind}": kind for kind in KINDS},
}
"""The kind that each bank holds at the sites that are selected."""


def method_of(name: str) -> Method:
    """Look up a method by name, numbered and refined ones too; KeyError for an unknown name."""
    if is_refined(name):
        method = method_of(unrefined(name))
        return replace(method, label=f"{method.label}, refined")
    if name in METHODS:
        return METHODS[name]
    return Method(name, name, NUMBERED_METHODS[name.rstrip("0123456789")])


def is_refined(name: str) -> bool:
    """Whether a method's checkpoints are refined."""
    return name.endswith(REFINED)


def unrefined(name: str) -> str:
    """Name of the method whose checkpoints a refined method refines; of any other method its own."""
    return name.removesuffix(REFINED)


def method_of_policy(policy: str) -> str:
    """Name of the method that reads selections of a policy from our own banks; mostly the policy's own name."""
    return "adaptive" if policy == METHODS["adaptive"].policy else policy
