"""Processes that run side by side get a device each, and a process that dies lets go of its own."""

import gc
import os
import signal
import stat
import subprocess
import sys

import pytest

from altq.runtime import gpu

HOLD = """
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.INFO)
from altq.runtime import gpu
gpu.SECONDS_BETWEEN_LOOKS = 0.05
claim = gpu.claim_gpu(Path(sys.argv[1]))
print(claim.device, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def hold(project, tmp_path):
    """Start processes that claim a device and hold it; whatever is left of them is killed in the end."""
    started = []

    def start() -> subprocess.Popen:
        environment = {name: value for name, value in os.environ.items() if name != gpu.VISIBLE}
        environment |= {gpu.DEVICES: "0,3", "PYTHONPATH": str(project)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, "-c", HOLD, tmp_path / "locks"]
        started.append(subprocess.Popen(command, env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def two_devices(monkeypatch):
    monkeypatch.setenv(gpu.DEVICES, "0,3")
    # Both set and removed, so that what claim_gpu sets is removed in the end.
    monkeypatch.setenv(gpu.VISIBLE, "")
    monkeypatch.delenv(gpu.VISIBLE)


@pytest.fixture
def folder(tmp_path):
    """Of the locks, as the first process makes it."""
    return tmp_path / "locks"


def test_each_process_has_its_own(hold):
    processes = [hold(), hold()]
    assert sorted(process.stdout.readline().strip() for process in processes) == ["0", "3"]


def test_one_too_many_waits_until_a_device_is_free(hold):
    first, second = hold(), hold()
    held = {process.stdout.readline().strip(): process for process in (first, second)}
    third = hold()
    assert "all 2 GPUs are taken" in third.stderr.readline()
    held["3"].stdin.write("\n")
    held["3"].stdin.flush()
    assert third.stdout.readline().strip() == "3"


def test_a_process_that_is_killed_lets_go(hold):
    first, second = hold(), hold()
    held = {process.stdout.readline().strip(): process for process in (first, second)}
    held["0"].send_signal(signal.SIGKILL)
    held["0"].wait()
    assert hold().stdout.readline().strip() == "0"


def test_the_device_is_the_only_one_that_is_seen(two_devices, folder):
    claim = gpu.claim_gpu(folder)
    try:
        assert claim.device == os.environ[gpu.VISIBLE] == "0"
    finally:
        claim.release()


def test_what_slurm_gave_is_left_alone(two_devices, folder, monkeypatch):
    monkeypatch.setenv(gpu.VISIBLE, "1")
    assert gpu.claim_gpu(folder) is None and os.environ[gpu.VISIBLE] == "1"
    assert not folder.exists()


def test_a_machine_without_a_gpu_claims_nothing(two_devices, folder, monkeypatch):
    monkeypatch.setenv(gpu.DEVICES, "")
    assert gpu.claim_gpu(folder) is None and gpu.VISIBLE not in os.environ


def test_the_locks_lie_in_a_folder_that_nobody_else_looks_into(two_devices, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.tempfile, "gettempdir", lambda: str(tmp_path))
    before = os.umask(0)
    try:
        gpu.claim_gpu().release()
    finally:
        os.umask(before)
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"altq-gpus-{os.geteuid()}" and stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()] == [0o600]


def test_a_folder_that_others_can_open_is_refused(two_devices, folder):
    folder.mkdir(mode=0o700)
    for mode in (0o777, 0o770, 0o1777, 0o750):
        folder.chmod(mode)
        with pytest.raises(PermissionError, match=rf"is open to others .mode {mode:04o}, not 0700.; set TMPDIR"):
            gpu.claim_gpu(folder)
    assert not list(folder.iterdir()) and gpu.VISIBLE not in os.environ


def test_a_folder_of_another_user_is_refused(two_devices, folder, monkeypatch):
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="belongs to user"):
        gpu.claim_gpu(folder)
    assert not list(folder.iterdir())


def test_links_are_not_followed(two_devices, folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)
    with pytest.raises(PermissionError, match="is no folder, or a link to one"):
        gpu.claim_gpu(folder)
    folder.unlink()
    folder.mkdir(mode=0o700)
    for device in ("0", "3"):
        (folder / f"{device}.lock").symlink_to(elsewhere / "made-by-a-lock")
    with pytest.raises(OSError):
        gpu.claim_gpu(folder)
    assert not list(elsewhere.iterdir())


def test_a_claim_outlives_its_name(two_devices, folder, monkeypatch):
    gpu.claim_gpu(folder)
    gc.collect()
    monkeypatch.delenv(gpu.VISIBLE)
    try:
        assert gpu.claim_gpu(folder).device == "3"
    finally:
        for claim in [*gpu._claims]:
            claim.release()


def test_a_wait_is_said_and_ends(two_devices, folder, monkeypatch, caplog):
    caplog.set_level("INFO")
    for name, value in (("SECONDS_BETWEEN_LOOKS", 0.01), ("SECONDS_BETWEEN_MESSAGES", 0.02), ("LONGEST_WAIT", 0.2)):
        monkeypatch.setattr(gpu, name, value)
    claims = []
    for _ in range(2):
        claims.append(gpu.claim_gpu(folder))
        monkeypatch.delenv(gpu.VISIBLE)
    try:
        with pytest.raises(TimeoutError, match="no GPU of 0, 3 got free within"):
            gpu.claim_gpu(folder)
    finally:
        for claim in claims:
            claim.release()
    assert "all 2 GPUs are taken" in caplog.text and "still waiting for a GPU" in caplog.text


def test_names_of_devices_may_have_slashes(two_devices, folder, monkeypatch):
    monkeypatch.setenv(gpu.DEVICES, "MIG-GPU-ab12/1/0")
    claim = gpu.claim_gpu(folder)
    claim.release()
    assert claim.device == "MIG-GPU-ab12/1/0" and [path.name for path in folder.iterdir()] == [
        "MIG-GPU-ab12%2F1%2F0.lock"
    ]


def test_devices_are_those_that_the_driver_lists(tmp_path, monkeypatch):
    monkeypatch.delenv(gpu.DEVICES, raising=False)
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 0\necho 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert gpu.list_devices() == ["0", "1"]
    program.write_text("#!/bin/sh\necho 'no devices were found' >&2\nexit 6\n")
    assert gpu.list_devices() == []
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.list_devices() == []


@pytest.mark.parametrize("words", ["calibrate-end-to-end --model m", "benchmark --device gpu"])
def test_commands_on_a_gpu_claim_it_before_torch_is_imported(run_python, project, words):
    code = (
        "import sys; from altq import cli\n"
        "cli.claim_gpu = lambda: sys.exit(f'claims, with torch imported: {\"torch\" in sys.modules}')\n"
        "cli.main(sys.argv[1:])\n"
    )
    ended = run_python("-c", code, *words.split(), folder=project)
    assert ended.returncode == 1 and ended.stderr.strip() == "claims, with torch imported: False"
