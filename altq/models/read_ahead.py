"""Reading the tensors of a model's next block in a thread, while the block before it is at work on a GPU."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

Tensors = dict[str, Tensor]


class ReadAhead:
    """Tensors of blocks, by their name in the block; at most one block is ahead.

    read: gives those of a block, mapped from files. An error of the thread is raised when its block is asked for. A
    process that ends waits for the block that is being read.
    """

    def __init__(self, read: Callable[[int], Tensors]) -> None:
        self._read = read
        self._executor = ThreadPoolExecutor(1, "reading the next block")
        self._ahead: tuple[int, Future[Tensors]] | None = None

    def begin(self, block: int, place: Callable[[Tensor], Tensor]) -> None:
        """Begin to read a block, unless that goes on or is done already; what is ahead otherwise is let go.

        place: copies a tensor to where it is kept until it is asked for; it is the copy that reads the disk.
        """
        if self._ahead is None or self._ahead[0] != block:
            self._let_go()
            self._ahead = block, self._executor.submit(self._copy, block, place)

    def take(self, block: int) -> Tensors:
        """The tensors of a block, which then belong to the caller: those that were read ahead, or read now."""
        if self._ahead is None or self._ahead[0] != block:
            return self._read(block)
        (_, future), self._ahead = self._ahead, None
        return future.result()

    def _copy(self, block: int, place: Callable[[Tensor], Tensor]) -> Tensors:
        return {name: place(tensor) for name, tensor in self._read(block).items()}

    def _let_go(self) -> None:
        if self._ahead is not None and not self._ahead[1].cancel():
            self._ahead[1].exception()  # waits, so that two blocks are never in memory
        self._ahead = None
