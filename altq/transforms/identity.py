"""The identity: no transformation."""

from torch import Tensor

from altq.transforms.transform import Transform


class Identity(Transform):
    """T = I."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def apply_to(self, x: Tensor) -> Tensor:
        return x

    def fold(self, weight: Tensor) -> Tensor:
        return weight
