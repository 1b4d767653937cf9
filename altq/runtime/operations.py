"""Count of what a computation takes on a device: operations in products, bytes that its operations move, peak memory.

On the meta device nothing is computed, so that a block of a 70B model is counted in seconds and in no memory.
"""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

ALLOCATIONS = ("aten::empty", "aten::new_empty")
ALIASES = ("aten::detach", "aten::_unsafe_view", "aten::alias", "aten::lift_fresh")


class Operations(TorchDispatchMode):
    """The operations that ran inside, one launch each on a GPU, without any fusion.

    bytes: read and written, by the name of the operation; views and allocations move none, and a tensor that is expanded
    is read once. launches: how many move any. peak: bytes of live tensors that were made inside, at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.launches, self.peak = 0, 0
        self._live = 0
        self._known: set[int] = set()
        self._flops = FlopCounterMode(display=False)

    @property
    def products(self) -> int:
        """Floating-point operations of matrix products; a multiply-add is two."""
        return self._flops.get_total_flops()

    @property
    def moved(self) -> int:
        """Bytes of all operations together."""
        return sum(self.bytes.values())

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        output = function(*args, **(kwargs or {}))
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        written = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        for tensor in written:
            self._track(tensor)
        name = function.name()
        is_alias = function.is_view or name in ALIASES
        if not is_alias and not name.startswith(ALLOCATIONS):
            self.bytes[name.removeprefix("aten::")] += sum(map(_touched, (*read, *written)))
            self.launches += 1
        return output

    def _track(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self._live += size
            self.peak = max(self.peak, self._live)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size


def _touched(tensor: Tensor) -> int:
    """Bytes of a tensor that lie in memory: all of it, or its storage where it is expanded."""
    expanded = any(stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.untyped_storage().nbytes() if expanded else tensor.numel() * tensor.element_size()


@contextmanager
def counted() -> Iterator[Operations]:
    """A context in which operations run and are counted, backward passes included."""
    operations = Operations()
    with operations._flops, operations:
        yield operations
