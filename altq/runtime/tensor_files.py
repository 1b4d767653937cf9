"""Files of tensors: safetensors, and hidden states of many windows, mapped so that memory holds those in use.

Nothing that is not finite is written: what reads it later would have to find out where it came from.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from altq.runtime.files import atomic


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file of tensors on any device.

    OSError where the disk is full or cannot be written; ValueError names a tensor that holds NaN or infinity.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            require_finite(tensor, path, f"tensor {name}")
    with atomic(path) as partial:
        try:
            contents = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
            save_file(contents, partial, metadata=metadata)
        except SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def read_hidden_states(path: str | Path) -> Tensor:
    """Map hidden states [windows, length, hidden], read lazily; changes to them are not kept."""
    return torch.from_numpy(np.load(path, mmap_mode="c"))


@contextmanager
def written_hidden_states(path: str | Path, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Yield float32 hidden states [windows, length, hidden] to be filled in, which are at `path` thereafter.

    ValueError where they hold NaN or infinity by then, as for `write_tensors`. Their space is allocated first: a full
    disk is an OSError here, where it would kill a process that fills a mapping.
    """
    with atomic(path) as partial:
        array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        with open(partial, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        states = torch.from_numpy(array)
        yield states
        for index, window in enumerate(states):
            require_finite(window, path, f"window {index} of the hidden states")
        array.flush()


def require_finite(tensor: Tensor, path: str | Path, name: str) -> None:
    """Raise ValueError where a tensor, of which `name` says what it is, holds NaN or infinity: `path` is not written."""
    wrong = int(tensor.numel() - tensor.isfinite().sum())
    if wrong:
        raise ValueError(
            f"{path} is not written: {name} holds NaN or infinity at {wrong:,} of {tensor.numel():,} places; look for "
            "weights that are not finite and for activations that overflow"
        )
