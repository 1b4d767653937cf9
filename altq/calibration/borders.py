"""Borders between sublayers as calibration walks past them: read where they are stored, computed again where not."""

from typing import Any

from torch import Tensor

from altq.calibration.states import MOMENT_WINDOWS, States, digest, observe, run_sublayer
from altq.experiment.kinds import HALVES
from altq.models.skeleton import Skeleton
from altq.models.sublayer import Sublayer


class Borders:
    """States at every border, and moments of every sublayer, of a full-precision model, on its device.

    Those of the block that was asked for last are kept; going on to the next block runs that block alone. Whoever asks
    in the order of sublayers so runs every block once, and a shard, besides, those from the stored border before it.
    """

    def __init__(self, skeleton: Skeleton, arguments: list[dict[str, Any]], states: States) -> None:
        self.skeleton, self.arguments, self.states = skeleton, arguments, states
        self._known: dict[int, Tensor] = {}

    def state(self, index: int) -> Tensor:
        """The residual stream at a border: [windows, length, hidden]. ValueError where it is not what was recorded."""
        if index not in self._known:
            block = max(0, index - 1) // 2
            self._known = {i: state for i, state in self._known.items() if 2 * block <= i <= 2 * block + 2}
            if index in self.states.stored:
                self._known[index] = self.states.state(index).to(self.skeleton.device)
            else:
                borders_before = range(2 * block, -1, -2)
                start = next(i for i in borders_before if i in self._known or i in self.states.stored)
                for passed in range(start // 2, block + 1):
                    self._run_block(passed)
        return self._known[index]

    def observed(self, s: int) -> dict[str, Tensor]:
        """Moments, sensitivities and peaks of a sublayer, see `altq.calibration.states.observe`."""
        if self.states.border_every == 1:
            return self.states.observed(s)
        windows = slice(MOMENT_WINDOWS)
        inputs, outputs = (self.state(index)[windows] for index in (s, s + 1))
        return observe(
            self._sublayers(s // 2)[s % 2],
            inputs,
            outputs,
            arguments=self.arguments[s // 2],
            loss=self.states.loss,
            generator=self.states.probes(s),
        )

    def _run_block(self, block: int) -> None:
        """Compute the borders behind both halves of a block from the one before it."""
        state = self.state(2 * block)
        self._known = {2 * block: state}
        for border, sublayer in enumerate(self._sublayers(block), 2 * block + 1):
            state = run_sublayer(sublayer, state, self.arguments[block])
            if digest(state) != self.states.digests[border]:
                raise ValueError(
                    f"{self.states.folder}: the state at border {border}, which is not stored, is another one when it is "
                    "computed again here than where it was recorded: run on the same kind of processor or GPU with as "
                    "many threads, or record the states with `--border-every 1`"
                )
            self._known[border] = state

    def _sublayers(self, block: int) -> list[Sublayer]:
        module = self.skeleton.block(block)
        return [Sublayer(module, self.skeleton.family, half) for half in HALVES]
