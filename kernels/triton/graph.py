"""CUDA graphs: a step that is recorded once, then replayed without the host's part of its launches.

The host takes longer to launch a small kernel than the GPU to run it, so a decode step is timed, and served, as a graph.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def capture(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Record `step` in a CUDA graph; the returned function replays it and returns the same output tensor each time.

    `step` reads and writes the same tensors in every call. It is called three times first, which compiles its kernels.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = step()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay
