"""The device that a process computes on: `--device auto`, `cpu`, `cuda` or `cuda:1`, and a GPU of its own where it is one.

Snakemake counts GPUs and gives none out, and torch takes the first. A process claims a device by locking its file in a
folder that all of a user's processes on the machine share; the system releases the lock when the process ends, however
it ends. The folder is in the temporary one, where others may write: it has to be the user's own and closed to them.
Claiming comes before torch is imported, `open_device` after.
"""

import logging
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from filelock import FileLock, Timeout

from altq.runtime.files import require_own_folder

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

AUTO = "auto"
"""A GPU where there is one, and the CPU otherwise."""

DEVICES = "ALTQ_GPU_DEVICES"
"""Environment variable: the devices to share among processes, e.g. "0,1,3"; all that nvidia-smi lists when absent."""

VISIBLE = "CUDA_VISIBLE_DEVICES"
SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_BETWEEN_MESSAGES = 600.0
LONGEST_WAIT = 24 * 3600.0
"""Seconds. Snakemake starts no more jobs than it counts GPUs, so that a wait is short unless something else holds them."""

_claims: list["Claim"] = []
"""Claims that nobody released. A lock would be open again if the garbage collector freed it."""


class Claim:
    """A device that is held until `release`, or until this process ends."""

    def __init__(self, device: str, lock: FileLock) -> None:
        self.device, self._lock = device, lock
        _claims.append(self)

    def release(self) -> None:
        self._lock.release()
        _claims.remove(self)


def checked_device(text: str) -> str:
    """`auto`, `cpu`, `cuda` or `cuda:N` as it is; ValueError for what is none of them."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise ValueError(f"{text!r} is no device; give auto, cpu, cuda, or cuda:1 for the second GPU")
    return text


def claim_gpu(device: str = AUTO, folder: Path | None = None) -> Claim | None:
    """Claim what `--device` names, and make it the only GPU that this process and its children see.

    To be called before torch is imported; held until the process ends, where it is not released. `auto` and `cuda` wait
    for any that is free; `cuda:N` is the Nth of those that are there, counted from 0. None, and nothing is claimed, for
    `cpu`, where CUDA_VISIBLE_DEVICES is set already (by SLURM or by hand; `cuda:N` is then the Nth of these), or for
    `auto` where the machine has no GPU. folder: of the lock files (default: in the temporary folder). Raises ValueError
    for a GPU that is not there or that another process has, PermissionError where the folder is not the user's own,
    TimeoutError where no device gets free within LONGEST_WAIT.
    """
    devices = visible_devices()
    if device == "cpu" or (device == AUTO and not devices):
        return None
    if not devices:
        shown = f"{VISIBLE}={os.environ[VISIBLE]}" if VISIBLE in os.environ else "nvidia-smi lists none"
        raise ValueError(f"--device {device}: no GPU is there ({shown}); give --device cpu")
    _, _, number = device.partition(":")
    if number and int(number) >= len(devices):
        raise ValueError(f"--device {device}: GPUs there are {', '.join(devices)}, counted from 0; give one of them")
    if VISIBLE in os.environ:
        if number:
            os.environ[VISIBLE] = devices[int(number)]
        return None
    folder = folder or Path(tempfile.gettempdir()) / f"altq-gpus-{os.geteuid()}"
    require_own_folder(folder, "set TMPDIR to a folder of your own, the same for all jobs, or remove it")
    claim = _first_free(devices[int(number) :][:1] if number else devices, folder)
    if claim is None and number:
        raise ValueError(
            f"--device {device}: another process of altq has GPU {devices[int(number)]} (its lock is in {folder}); give "
            "--device cuda to wait for any that is free"
        )
    claim = claim or _wait(devices, folder)
    os.environ[VISIBLE] = claim.device
    log.info("using GPU %s of %d", claim.device, len(devices))
    return claim


def open_device(device: str, gpu_memory: float | None = None) -> "torch.device":
    """The device that `--device` names, once it is claimed and torch may be imported.

    gpu_memory: GB of a GPU that torch is to take at most; all where None. ValueError where torch cannot use the GPU that
    is asked for: built without CUDA, no driver, or one that is too old, or where the GPU has less memory. `auto` is the
    CPU then, with a warning where the machine has a GPU.
    """
    import torch

    problem = None if device == "cpu" else _problem()
    if problem and device != AUTO:
        raise ValueError(f"--device {device}: {problem}")
    if problem and visible_devices():
        log.warning("computing on the CPU, although there is a GPU: %s", problem)
    if device == "cpu" or problem:
        return torch.device("cpu")
    if gpu_memory is not None:
        _, total = torch.cuda.mem_get_info()
        if gpu_memory * 1e9 > total:
            raise ValueError(f"--gpu-memory {gpu_memory:g}: the GPU has {total / 1e9:.1f} GB; give no more than that")
        torch.cuda.set_per_process_memory_fraction(gpu_memory * 1e9 / total)
    return torch.device("cuda")


def _problem() -> str | None:
    """What keeps torch from computing on a GPU, and what helps; None for nothing."""
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; install one that is built with it (README.md)"
    try:
        torch.zeros(1, device="cuda")
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        return f"torch {torch.__version__} cannot use it with driver {driver_version()} ({reason}); update the driver"
    return None


@cache
def driver_version() -> str | None:
    """The version of NVIDIA's driver; None without one."""
    return next(iter(_nvidia_smi("driver_version")), None)


def _wait(devices: Sequence[str], folder: Path) -> Claim:
    began = last_message = time.monotonic()
    log.info(
        "all %d GPUs are taken by other processes; waiting for one, %g hours at most", len(devices), LONGEST_WAIT / 3600
    )
    while (now := time.monotonic()) < began + LONGEST_WAIT:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        if claim := _first_free(devices, folder):
            return claim
        if now > last_message + SECONDS_BETWEEN_MESSAGES:
            last_message = now
            log.info("still waiting for a GPU, for %.0f minutes now", (now - began) / 60)
    raise TimeoutError(
        f"no GPU of {', '.join(devices)} got free within {LONGEST_WAIT / 3600:g} hours; see who holds the locks in "
        f"{folder} (`fuser {folder}/*`), or name other devices in {DEVICES}"
    )


def visible_devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them: those that it lists, or all."""
    visible = os.environ.get(VISIBLE)
    if visible is None:
        return list_devices()
    return [device.strip() for device in visible.split(",") if device.strip() not in ("", "-1")]


def list_devices() -> list[str]:
    """The GPUs of this machine as CUDA_VISIBLE_DEVICES names them, without importing torch."""
    devices = os.environ.get(DEVICES)
    if devices is not None:
        return [device.strip() for device in devices.split(",") if device.strip()]
    return _nvidia_smi("index")


def _nvidia_smi(field: str) -> list[str]:
    """A field of each GPU; none, with a warning, where nvidia-smi fails."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, check=False)
    if result.returncode:
        log.warning("nvidia-smi lists no GPU: %s", (result.stderr or result.stdout).strip())
        return []
    return result.stdout.split()


def _first_free(devices: Sequence[str], folder: Path) -> Claim | None:
    for device in devices:
        # Some names of devices (MIG) have slashes. The descriptor is inherited by no program that is started.
        lock = FileLock(folder / f"{quote(device, safe='')}.lock", mode=0o600)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        return Claim(device, lock)
    return None
