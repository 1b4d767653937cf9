"""Processes that run side by side get a device each, and a process that dies lets go of its own."""

import os
import signal
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
        command = [sys.executable, "-c", HOLD, tmp_path]
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


def test_the_device_is_the_only_one_that_is_seen(two_devices, tmp_path):
    claim = gpu.claim_gpu(tmp_path)
    try:
        assert claim.device == os.environ[gpu.VISIBLE] == "0"
    finally:
        claim.release()


def test_what_slurm_gave_is_left_alone(two_devices, tmp_path, monkeypatch):
    monkeypatch.setenv(gpu.VISIBLE, "1")
    assert gpu.claim_gpu(tmp_path) is None and os.environ[gpu.VISIBLE] == "1"
    assert not list(tmp_path.iterdir())


def test_a_machine_without_a_gpu_claims_nothing(two_devices, tmp_path, monkeypatch):
    monkeypatch.setenv(gpu.DEVICES, "")
    assert gpu.claim_gpu(tmp_path) is None and gpu.VISIBLE not in os.environ


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
