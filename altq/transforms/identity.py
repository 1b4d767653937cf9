"""The identity: no transformation."""

from torch import Tensor

from altq.transforms.transform import Transform


class Identity(Transform):
    """T = I."""

    def apply_to(self, x: Tensor) -> Tensor:
        return x

    def fold(self, weight: Tensor) -> Tensor:
        return weight
