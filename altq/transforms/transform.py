"""Interface of every transformation: an invertible linear map x -> x T at the input of linear layers.

With y = x W^T = (x T)(W T^-T)^T, `apply_to` acts on activations and `fold` on weights; both act on the last axis.
altq/checkpoint/assembly.py decides which of them is folded into which weights.
"""

import torch
from torch import Tensor, nn

from altq.runtime.looks import look


def inverse_of(factor: Tensor) -> Tensor:
    """The inverse of [..., d, d]; LinAlgError where there is none, at once or where looks are put off, at their end."""
    inverse, info = torch.linalg.inv_ex(factor)

    def judge(places: list[float]) -> None:
        if any(places):
            raise torch.linalg.LinAlgError(f"a factor of {factor.shape[-1]} channels cannot be inverted")

    look(info, judge)
    return inverse


class Transform(nn.Module):
    """An invertible map of `size` channels. Subclasses define `apply_to` and `fold`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def apply_to(self, x: Tensor) -> Tensor:
        """x T: [..., size] -> [..., size]."""
        raise NotImplementedError

    def fold(self, weight: Tensor) -> Tensor:
        """W T^-T: [..., size] -> [..., size], so that apply_to(x) @ fold(W).T = x @ W.T."""
        raise NotImplementedError

    def matrix(self) -> Tensor:
        """T: [size, size]."""
        return self.apply_to(self._eye())

    def inverse(self) -> Tensor:
        """T^-1: [size, size]."""
        return self.fold(self._eye()).mT

    def check(self) -> tuple[bool, str]:
        """Check that T is finite and that `fold` undoes `apply_to`: (is valid, the reason and tolerance if not)."""
        eye = self._eye()
        try:
            with torch.no_grad():
                error = (self.apply_to(self.inverse()) - eye).abs().max().item()
        except torch.linalg.LinAlgError as singular:
            return False, f"{type(self).__name__}({self.size}): a factor has no inverse ({singular})"
        tolerance = self.size * torch.finfo(eye.dtype).eps ** 0.75
        if not error <= tolerance:  # a NaN fails here
            return False, f"{type(self).__name__}({self.size}): |T^-1 T - I| = {error:.2e} exceeds {tolerance:.2e}"
        return True, "ok"

    def assert_valid(self) -> None:
        """Raise ValueError, with the reason of `check`, for a transformation that is not invertible."""
        ok, reason = self.check()
        if not ok:
            raise ValueError(reason)

    def _eye(self) -> Tensor:
        reference = next(iter(self.state_dict().values()), torch.empty(0))
        return torch.eye(self.size, dtype=reference.dtype, device=reference.device)
