"""The methods, as data: a row of the tables is a policy that chooses kinds; the rest of the pipeline is shared."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """label: name in the tables. policy: which selection file. candidates: the kinds that it may choose.

    Kinds that are calibrated need a bank; `identity` is round-to-nearest with neither transform nor clipping.
    """

    label: str
    policy: str
    candidates: tuple[str, ...]

    @property
    def banks(self) -> tuple[str, ...]:
        """The kinds whose bank assembly reads."""
        return tuple(kind for kind in self.candidates if kind != "identity")


FULL = "full"
"""The full-precision model: no selection, no checkpoint of its own."""

METHODS: dict[str, Method] = {
    "rtn": Method("No transform", "identity", ("identity",)),
    "affine": Method("Affine", "affine", ("affine",)),
    "rotation": Method("Rotation", "rotation", ("rotation",)),
    "balance": Method("Balance", "balance", ("balance",)),
    "adaptive": Method("Adaptive", "heuristic", ("affine", "rotation")),
}
