"""Tensors of a checkpoint that refinement trains: each by a factor for each of its elements, which keeps its sign."""

from collections.abc import Mapping

import torch
from torch import Tensor


class TrainedTensors:
    """Tensors by their names in the checkpoint, and the logarithms of the factors that they are multiplied by.

    logs: the parameters, float32, of each tensor's shape; zero at the start, where every value is what is stored. Values
    are numbers of the type that is stored, rounded straight-through where it is not float32.
    """

    def __init__(self) -> None:
        self.logs: dict[str, Tensor] = {}
        self._stored: dict[str, tuple[Tensor, float, torch.dtype]] = {}

    def add(self, name: str, stored: Tensor, offset: float = 0.0) -> None:
        """Train a tensor; what the factor multiplies is `offset` + the tensor, such as the gain of a norm."""
        assert name not in self.logs, name
        self._stored[name] = stored.detach().float(), offset, stored.dtype
        self.logs[name] = torch.zeros_like(self._stored[name][0]).requires_grad_()

    def value(self, name: str) -> Tensor:
        """The tensor as it is now, in float32, with gradients for its logarithms."""
        stored, offset, dtype = self._stored[name]
        # Not exp: at zero the sum is what is stored, to the bit, whatever the offset.
        exact = stored + (stored + offset) * self.logs[name].expm1()
        return exact if dtype == torch.float32 else exact + (exact.to(dtype).float() - exact).detach()

    @torch.no_grad()
    def changed(self) -> dict[str, Tensor]:
        """The tensors, by name and on the CPU, that are no longer what is stored, in the type that is."""
        return {name: self.value(name).to("cpu", self._stored[name][2]) for name, log in self.logs.items() if log.any()}

    @torch.no_grad()
    def restore(self, logs: Mapping[str, Tensor]) -> None:
        """Set all logarithms."""
        for name, log in self.logs.items():
            log.copy_(logs[name])

    def copy(self) -> dict[str, Tensor]:
        """The logarithms as they are now, by name."""
        return {name: log.detach().clone() for name, log in self.logs.items()}

    def is_finite(self) -> bool:
        """Whether all values are finite."""
        return all(bool(self.value(name).isfinite().all()) for name in self.logs)

    @property
    def num_elements(self) -> int:
        """How many numbers are trained."""
        return sum(log.numel() for log in self.logs.values())
