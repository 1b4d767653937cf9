"""A selection: one transformation kind for each sublayer, with the scores and the reasons that led to it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import model_validator

from altq.experiment.kinds import HALVES, KINDS
from altq.runtime.documents import Record, read_described
from altq.runtime.files import write_json


@dataclass(frozen=True)
class Decision:
    """The kind of one sublayer, and why. `score` and `z` are None where the policy has none."""

    sublayer: int
    kind: str
    reason: str
    score: float | None = None
    z: float | None = None

    @property
    def block(self) -> int:
        return self.sublayer // 2

    @property
    def half(self) -> str:
        return HALVES[self.sublayer % 2]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "block": self.block, "half": self.half}


@dataclass(frozen=True)
class Selection:
    """Kinds of the 2n sublayers of a model of n blocks: 2i is the attention, 2i + 1 the ffn of block i.

    ValueError unless there is exactly one decision for each sublayer, in order, and every kind is known.
    """

    policy: str
    model: str
    num_blocks: int
    decisions: tuple[Decision, ...]
    thresholds: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"selection {self.policy!r} of {self.model!r}"
        if len(self.decisions) != 2 * self.num_blocks:
            raise ValueError(
                f"{where} has {len(self.decisions)} decisions; a model of {self.num_blocks} blocks has {2 * self.num_blocks} "
                "(the attention and the ffn of each)"
            )
        for position, decision in enumerate(self.decisions):
            if decision.sublayer != position:
                raise ValueError(
                    f"{where} lists sublayer {decision.sublayer} at position {position}; put them in order"
                )
            if decision.kind not in KINDS:
                raise ValueError(
                    f"{where} asks for kind {decision.kind!r} at sublayer {position}; known are {', '.join(KINDS)}"
                )

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(decision.kind for decision in self.decisions)

    def write(self, path: str | Path) -> None:
        write_json(
            path,
            {
                "policy": self.policy,
                "model": self.model,
                "num_blocks": self.num_blocks,
                "kinds": list(self.kinds),
                "decisions": [decision.to_json() for decision in self.decisions],
                "thresholds": dict(self.thresholds),
                "provenance": dict(self.provenance),
            },
        )

    @classmethod
    def read(cls, path: str | Path) -> "Selection":
        """Read and check a selection file; ValueError names the file and what is wrong with it."""
        file = read_described(path, _File, "select again, or correct it")
        try:
            selection = cls(**{name: getattr(file, name) for name in cls.__dataclass_fields__})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if file.kinds != selection.kinds:
            raise ValueError(f"{path}: `kinds` and the kinds of `decisions` disagree; change both or neither")
        return selection


def fixed_selection(model: str, num_blocks: int, kind: str) -> Selection:
    """One `kind` at every sublayer; the policy is named after the kind. ValueError for an unknown kind."""
    decisions = tuple(Decision(sublayer, kind, reason=f"{kind} everywhere") for sublayer in range(2 * num_blocks))
    return Selection(policy=kind, model=model, num_blocks=num_blocks, decisions=decisions)


class _File(Record):
    """Content of the file of a selection."""

    policy: str
    model: str
    num_blocks: int
    decisions: tuple[Decision, ...]
    kinds: tuple[str, ...]
    thresholds: dict[str, Any]
    provenance: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _has_no_layers(cls, content: Any) -> Any:
        if isinstance(content, dict) and "layers" in content:
            raise ValueError("it has `layers`, as older versions called `decisions`; rename that key")
        return content


class _Distinct(Record):
    """Content of the file that `altq distinct` writes."""

    first: dict[str, str]


def read_distinct(path: str | Path) -> dict[str, str]:
    """The name of each selection and of the first that chooses alike; ValueError for a file that does not say it."""
    return read_described(path, _Distinct, "run `altq distinct` again").first
