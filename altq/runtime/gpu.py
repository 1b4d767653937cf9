"""A GPU of its own for each process on a machine with several.

Snakemake counts GPUs and gives none out, and torch takes the first. A process claims a device by locking its file in a
folder that all of a user's processes on the machine share; the system releases the lock when the process ends, however
it ends. The folder is in the temporary one, where others may write: it has to be the user's own and closed to them.
"""

import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock, Timeout

from altq.runtime.files import require_own_folder

log = logging.getLogger(__name__)

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


def claim_gpu(folder: Path | None = None) -> Claim | None:
    """Wait for a free device, and make it the only one that this process and its children see.

    To be called before torch is imported; held until the process ends, where it is not released. None, and nothing is
    changed, where CUDA_VISIBLE_DEVICES is set already (by SLURM or by hand) or the machine has no GPU. folder: of the
    lock files (default: in the temporary folder). Raises PermissionError where it is not the user's own, TimeoutError
    where no device gets free within LONGEST_WAIT.
    """
    if os.environ.get(VISIBLE) is not None:
        return None
    devices = list_devices()
    if not devices:
        return None
    folder = folder or Path(tempfile.gettempdir()) / f"altq-gpus-{os.geteuid()}"
    require_own_folder(folder, "set TMPDIR to a folder of your own, the same for all jobs, or remove it")
    claim = _first_free(devices, folder) or _wait(devices, folder)
    os.environ[VISIBLE] = claim.device
    log.info("using GPU %s of %d", claim.device, len(devices))
    return claim


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


def list_devices() -> list[str]:
    """The GPUs of this machine as CUDA_VISIBLE_DEVICES names them, without importing torch."""
    devices = os.environ.get(DEVICES)
    if devices is not None:
        return [device.strip() for device in devices.split(",") if device.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
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
