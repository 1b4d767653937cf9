"""Scores of every candidate kind at every sublayer, and the selection of the best by them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from altq.runtime.documents import Record, read_described
from altq.runtime.files import write_json
from altq.selection.selection import Decision, Selection

TIE = 1e-7
"""The relative difference up to which two scores are the same."""


@dataclass(frozen=True)
class Scores:
    """One number for each candidate kind, by sublayer: {kind: number}, 2n of them.

    quantity: what was measured, in words. ValueError unless every sublayer has a finite number for the same kinds.
    """

    model: str
    quantity: str
    lower_is_better: bool
    values: tuple[Mapping[str, float], ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"the {self.quantity} of {self.model!r}"
        if not self.values or len(self.values) % 2:
            raise ValueError(f"{where} has {len(self.values)} sublayers; every block has two")
        for sublayer, scores in enumerate(self.values):
            if set(scores) != set(self.kinds):
                raise ValueError(f"{where}: sublayer {sublayer} has {', '.join(scores)}, not {', '.join(self.kinds)}")
            for kind, score in scores.items():
                if not math.isfinite(score):
                    raise ValueError(f"{where} is {score} for {kind} at sublayer {sublayer}; it must be finite")

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.values[0])

    def write(self, path: str | Path) -> None:
        write_json(path, {**vars(self), "values": [list(scores.items()) for scores in self.values]})

    @classmethod
    def read(cls, path: str | Path) -> "Scores":
        """Read and check a file of scores; ValueError names the file and what is wrong with it."""
        file = read_described(path, _File, "measure again")
        try:
            return cls(**vars(file) | {"values": tuple(map(dict, file.values))})
        except ValueError as error:
            raise ValueError(f"{path}: {error}; measure again") from error


class _File(Record):
    """Content of a file of scores; of each sublayer, pairs of a kind and its score."""

    model_config = Record.model_config | {"extra": "forbid"}

    model: str
    quantity: str
    lower_is_better: bool
    values: tuple[tuple[tuple[str, float], ...], ...]
    provenance: dict[str, Any]


def best_selection(policy: str, scores: Scores) -> Selection:
    """Choose the kind with the best score at every sublayer (Eq. 7, where the scores are pi).

    ValueError where two are equally good, to the rounding of float32: nothing speaks for either. Where every kind has
    an error of 0, as at a sublayer without signal, nothing speaks against the first one either.
    """
    decisions = []
    for sublayer, by_kind in enumerate(scores.values):
        ranked = sorted(by_kind, key=by_kind.__getitem__, reverse=not scores.lower_is_better)
        best = ranked[0]
        if scores.lower_is_better and not any(by_kind.values()):
            decisions.append(Decision(sublayer, scores.kinds[0], f"{scores.quantity}: 0 for every kind", score=0.0))
            continue
        if len(ranked) > 1 and math.isclose(by_kind[best], by_kind[ranked[1]], rel_tol=TIE):
            raise ValueError(
                f"policy {policy!r} cannot choose at sublayer {sublayer}: {best} and {ranked[1]} both have a "
                f"{scores.quantity} of {by_kind[best]:g}"
            )
        ranking = ", ".join(f"{kind} {by_kind[kind]:.5g}" for kind in ranked)
        decisions.append(Decision(sublayer, best, f"{scores.quantity}: {ranking}", score=by_kind[best]))
    return Selection(policy=policy, model=scores.model, num_blocks=len(decisions) // 2, decisions=tuple(decisions))
