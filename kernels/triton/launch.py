"""Launches of kernels: checks of their tensors, the target of their layout, and the one place that starts them.

A kernel runs on a GPU, or on the CPU in Triton's interpreter (TRITON_INTERPRET=1 before Triton is imported). Under
`recording` nothing runs: launches are kept with their arguments, which may lie on the meta device. That is how kernels
are counted and compiled for targets that are not at hand (`kernels.measure.compilation`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

INTERPRETED = triton.knobs.runtime.interpret
"""Whether kernels run in the interpreter, which has no inline assembly, so that they take their plain paths."""

TARGETS = (80, 89, 90, 100)
"""Compute capabilities with configurations of their own: A100; RTX 4090, L40S; H100; B200."""


OPTIONS = {"enable_fp_fusion": True}
"""Options of every compilation: a multiplication and an addition may be rounded once, which changes no integer."""


@dataclass(frozen=True)
class Launch:
    """A launch of a kernel: `arguments` by name, constants included."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    num_warps: int
    num_stages: int


@dataclass
class _Recording:
    target: int
    launches: list[Launch]


_recording: _Recording | None = None


@contextmanager
def recording(target: int) -> Iterator[list[Launch]]:
    """A context in which kernels are laid out for `target`, one of TARGETS, and recorded instead of started.

    ValueError for another target.
    """
    global _recording
    if target not in TARGETS:
        raise ValueError(f"no kernel is laid out for compute capability {target}; there are {TARGETS}")
    previous, _recording = _recording, _Recording(target, [])
    try:
        yield _recording.launches
    finally:
        _recording = previous


def launch(kernel: Any, grid: tuple[int, ...], arguments: dict[str, Any], *, num_warps: int, num_stages: int) -> None:
    """Start a kernel, or record it; an empty grid starts nothing."""
    if 0 in grid:
        return
    if _recording is not None:
        _recording.launches.append(Launch(kernel, grid, arguments, num_warps, num_stages))
        return
    kernel[grid](**arguments, num_warps=num_warps, num_stages=num_stages, **OPTIONS)


def target_of(tensor: Tensor) -> int:
    """The target whose configurations serve the device of `tensor`; the interpreter takes those of 80.

    A capability between two targets is served by the lower one (86 by 80), one above them by the highest.
    Raises RuntimeError for a device that no kernel can run on.
    """
    if _recording is not None:
        return _recording.target
    if INTERPRETED and tensor.device.type == "cpu":
        return TARGETS[0]
    if tensor.device.type != "cuda" or torch.version.cuda is None:
        raise RuntimeError(
            f"Triton kernels run on NVIDIA GPUs, and this tensor is on {tensor.device}: move it to one, use "
            "kernels.reference, or set TRITON_INTERPRET=1 before Triton is imported to run them slowly on the CPU"
        )
    major, minor = torch.cuda.get_device_capability(tensor.device)
    capability = 10 * major + minor
    if capability < TARGETS[0]:
        name = torch.cuda.get_device_name(tensor.device)
        raise RuntimeError(f"{name} has compute capability {major}.{minor}; the kernels need at least 8.0 (Ampere)")
    return max(target for target in TARGETS if target <= capability)


def check_tensor(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int | None, ...], like: Tensor) -> None:
    """ValueError unless `tensor` is contiguous, of this type and shape (None: any size), and where `like` is."""
    fits = tensor.dim() == len(shape) and all(s in (None, n) for s, n in zip(shape, tensor.shape, strict=True))
    if tensor.dtype != dtype or not fits:
        expected = [("any" if size is None else size) for size in shape]
        raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}; the kernel needs {dtype} {expected}")
    if not tensor.is_contiguous():
        raise ValueError(
            f"{name} {list(tensor.shape)} has strides {tensor.stride()}; the kernel needs it contiguous: call "
            f".contiguous() once where it is made (torch.linalg.qr, for one, returns its matrices column by column)"
        )
    if tensor.device != like.device:
        raise ValueError(f"{name} is on {tensor.device}, its neighbours are on {like.device}")
