"""CUDA graphs: a step that is recorded once, then replayed without the host's part of its launches.

The host takes longer to launch a small kernel than the GPU to run it, so a decode step is timed, and served, as a graph.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class CapturedStep:
    """function(*arguments) in a CUDA graph: each call replays it and returns the same output tensor.

    The function reads and writes the same tensors every time: tensors that change are arguments, and are written into.
    A graph has the addresses of these tensors and owns none of them. Function and arguments are kept here, so that the
    memory stays theirs as long as the graph can be replayed.
    """

    def __init__(self, function: Callable[..., Tensor], *arguments: Any) -> None:
        """Call the function three times, which compiles its kernels, and record a fourth call."""
        self._function, self._arguments = function, arguments
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                function(*arguments)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = function(*arguments)

    def __call__(self) -> Tensor:
        self._graph.replay()
        return self._output
