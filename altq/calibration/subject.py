"""A subject of calibration: the full-precision model, and the states that were recorded of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from altq.calibration.borders import Borders
from altq.calibration.states import States
from altq.experiment.kinds import HALVES
from altq.models.skeleton import Skeleton
from altq.models.sublayer import Sublayer
from altq.runtime.device import CPU


@dataclass(frozen=True)
class Subject:
    """A full-precision model, driven block by block, and its states over the calibration windows."""

    skeleton: Skeleton
    states: States

    @classmethod
    def open(
        cls,
        model_folder: str | Path,
        states_folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        rotation: Tensor | None = None,
        device: torch.device = CPU,
    ) -> Self:
        """Open a model with weights of type `dtype` on a device, and what `altq states` wrote of it.

        rotation: of the residual stream, [hidden, hidden]. ValueError or FileNotFoundError names what a folder lacks.
        """
        return cls(Skeleton(model_folder, dtype, rotation, device), States(states_folder, device))

    @property
    def num_sublayers(self) -> int:
        """Two for each block."""
        return 2 * self.skeleton.num_blocks

    @cached_property
    def arguments(self) -> list[dict[str, Any]]:
        """Arguments of each block besides hidden states, for windows of the states' length."""
        return self.skeleton.block_arguments(self.states.length)

    @cached_property
    def borders(self) -> Borders:
        """States at every border, stored or not, and moments of every sublayer; of a stream that is not rotated."""
        return Borders(self.skeleton, self.arguments, self.states)

    def sublayers(self, members: Sequence[int]) -> list[Sublayer]:
        """Sublayers of one block, over a copy of its weights that is theirs alone."""
        block = self.skeleton.block(members[0] // 2)
        return [Sublayer(block, self.skeleton.family, HALVES[s % 2]) for s in members]
