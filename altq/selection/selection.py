"""A selection: one transformation kind for each sublayer, with the scores and the reasons that led to it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from altq.experiment.kinds import HALVES, KINDS
from altq.runtime.documents import Record, read_described
from altq.runtime.files import write_json


@dataclass(frozen=True)
class Layer:
    """What was decided for one sublayer. `score` and `z` are None where the policy has none."""

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

    ValueError unless there is exactly one layer for each sublayer, in order, and every kind is known.
    """

    policy: str
    model: str
    num_blocks: int
    layers: tuple[Layer, ...]
    thresholds: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"selection {self.policy!r} of {self.model!r}"
        if len(self.layers) != 2 * self.num_blocks:
            raise ValueError(
                f"{where} has {len(self.layers)} layers; a model of {self.num_blocks} blocks has {2 * self.num_blocks} "
                "(the attention and the ffn of each)"
            )
        for position, layer in enumerate(self.layers):
            if layer.sublayer != position:
                raise ValueError(f"{where} lists sublayer {layer.sublayer} at position {position}; put them in order")
            if layer.kind not in KINDS:
                raise ValueError(
                    f"{where} asks for kind {layer.kind!r} at sublayer {position}; known are {', '.join(KINDS)}"
                )

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(layer.kind for layer in self.layers)

    def write(self, path: str | Path) -> None:
        write_json(
            path,
            {
                "policy": self.policy,
                "model": self.model,
                "num_blocks": self.num_blocks,
                "kinds": list(self.kinds),
                "layers": [layer.to_json() for layer in self.layers],
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
            raise ValueError(f"{path}: `kinds` and the kinds of `layers` disagree; change both or neither")
        return selection


def fixed_selection(model: str, num_blocks: int, kind: str) -> Selection:
    """One `kind` at every sublayer; the policy is named after the kind. ValueError for an unknown kind."""
    layers = tuple(Layer(sublayer, kind, reason=f"{kind} everywhere") for sublayer in range(2 * num_blocks))
    return Selection(policy=kind, model=model, num_blocks=num_blocks, layers=layers)


class _File(Record):
    """What the file of a selection holds."""

    policy: str
    model: str
    num_blocks: int
    layers: tuple[Layer, ...]
    kinds: tuple[str, ...]
    thresholds: dict[str, Any]
    provenance: dict[str, Any]


class _Distinct(Record):
    """What the file of selections that are the same holds."""

    first: dict[str, str]


def read_distinct(path: str | Path) -> dict[str, str]:
    """The name of each selection and of the first that chooses alike; ValueError for a file that does not say it."""
    return read_described(path, _Distinct, "run `altq distinct` again").first
