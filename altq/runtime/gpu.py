"""Each process on a machine with several GPUs gets one of its own.

Snakemake counts GPUs and gives none out, and torch takes the first. A process claims a device by locking its file in a
folder that all processes of the machine share; the system lets go of the lock when the process ends, however it ends.
"""

import fcntl
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)

DEVICES = "ALTQ_GPU_DEVICES"
"""Environment variable: the devices to share among processes, e.g. "0,1,3"; all that nvidia-smi lists when absent."""

VISIBLE = "CUDA_VISIBLE_DEVICES"
SECONDS_BETWEEN_LOOKS = 2.0


class Claim:
    """A device that is held until `release`, or until this process ends."""

    def __init__(self, device: str, file: int) -> None:
        self.device, self._file = device, file

    def release(self) -> None:
        os.close(self._file)


def claim_gpu(folder: Path | None = None) -> Claim | None:
    """Wait for a free device, and make it the only one that this process and its children see.

    To be called before torch is imported; held until the process ends, where it is not released. None, and nothing is
    changed, where CUDA_VISIBLE_DEVICES is set already (by SLURM or by hand) or the machine has no GPU. folder: of the
    lock files (default: in the temporary folder).
    """
    if os.environ.get(VISIBLE) is not None:
        return None
    devices = list_devices()
    if not devices:
        return None
    folder = folder or Path(tempfile.gettempdir()) / f"altq-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    claim = _first_free(devices, folder)
    if claim is None:
        log.info("all %d GPUs are taken by other processes; waiting for one", len(devices))
    while claim is None:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        claim = _first_free(devices, folder)
    os.environ[VISIBLE] = claim.device
    log.info("using GPU %s of %d", claim.device, len(devices))
    return claim


def list_devices() -> list[str]:
    """The GPUs of this machine as CUDA_VISIBLE_DEVICES names them, without importing torch."""
    given = os.environ.get(DEVICES)
    if given is not None:
        return [device.strip() for device in given.split(",") if device.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(query, capture_output=True, text=True, check=False)
    if listed.returncode:
        log.warning("nvidia-smi lists no GPU: %s", (listed.stderr or listed.stdout).strip())
        return []
    return listed.stdout.split()


def _first_free(devices: Sequence[str], folder: Path) -> Claim | None:
    for device in devices:
        # Inherited by no child: a process that outlives its parent would keep the device.
        file = os.open(folder / f"{device}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
        else:
            return Claim(device, file)
    return None
