"""Units of calibration: one sublayer, or both halves of a block, each feeding the next, that are fitted together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from altq.calibration.borders import Borders
from altq.calibration.states import token_weights
from altq.calibration.sublayer import QuantizedSublayer
from altq.models.typed_modules import TypedModuleList
from altq.quantizers.clipping import Clip
from altq.runtime.batch_size import BatchSize

BATCH_SIZE = BatchSize()
"""That of steps and losses of units."""


class Unit(nn.Module):
    """Quantized sublayers in the order in which they run. `arguments` are those of their block."""

    def __init__(self, sublayers: Sequence[QuantizedSublayer], arguments: dict[str, Any]) -> None:
        super().__init__()
        self.sublayers = TypedModuleList(sublayers)
        self.arguments = arguments

    def clips(self) -> Iterator[Clip]:
        return (module for module in self.modules() if isinstance(module, Clip))

    def prepare(self) -> None:
        """Fold and quantize all weights once for the forward passes that follow."""
        for quantized in self.sublayers:
            quantized.prepare()

    def forward(self, states: Tensor) -> Tensor:
        """Run the unit: its addition to the residual stream [windows, length, hidden] that enters it."""
        added = states.new_zeros(())
        for quantized in self.sublayers:
            added = added + quantized(quantized.sublayer.norm(states + added), self.arguments)
        return added


@dataclass(frozen=True)
class Problem:
    """Inputs and targets of one unit: the full-precision states before and after it [windows, length, hidden].

    They are on the unit's device, so that a step copies none of them.
    """

    inputs: Tensor
    outputs: Tensor
    loss: str

    @classmethod
    def of(cls, borders: Borders, members: Sequence[int]) -> Self:
        """Inputs and targets of consecutive sublayers."""
        return cls(borders.state(members[0]), borders.state(members[-1] + 1), borders.states.loss)

    def evaluate(self, unit: nn.Module, windows: Tensor) -> Tensor:
        """The weighted mean squared error of what the quantized unit adds to the residual stream."""
        windows = windows.to(self.inputs.device)
        inputs, outputs = self.inputs[windows], self.outputs[windows]
        weights = token_weights(self.loss, outputs)  # [windows, length, 1]
        error = (_added(unit, inputs) - (outputs - inputs)).square().mean(-1, keepdim=True)
        return (error * weights).sum() / weights.sum()

    @torch.no_grad()
    def value(self, unit: Unit, windows: Tensor) -> float:
        """Measure the loss as a number, with half as many windows at once where memory ends."""
        return BATCH_SIZE.fit(lambda: self.evaluate(unit, windows).item(), "loss of a unit")

    def settled(self, unit: Unit, windows: Tensor) -> float:
        """The loss with weights folded and quantized as they now are."""
        with torch.no_grad():
            unit.prepare()
        return self.value(unit, windows)


def _added(unit: nn.Module, inputs: Tensor) -> Tensor:
    """What a unit adds; in parts that the backward pass runs again, one after the other, where the batch is halved."""
    parts = [*BATCH_SIZE.slices(len(inputs), len(inputs))]
    if len(parts) == 1:
        return unit(inputs)
    return torch.cat([checkpoint(unit, inputs[rows], use_reentrant=False) for rows in parts])
