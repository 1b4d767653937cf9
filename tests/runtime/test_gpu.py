"""Processes that run side by side get a device each, and a process that dies lets go of its own."""

import gc
import os
import signal
import stat
import subprocess
import sys

import pytest
import torch

from altq import cli
from altq.runtime import gpu

HOLD = """
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.INFO)
from altq.runtime import gpu
gpu.SECONDS_BETWEEN_LOOKS = 0.05
claim = gpu.claim_gpu(folder=Path(sys.argv[1]))
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
    claim = gpu.claim_gpu(folder=folder)
    try:
        assert claim.device == os.environ[gpu.VISIBLE] == "0"
    finally:
        claim.release()


def test_what_slurm_gave_is_left_alone(two_devices, folder, monkeypatch):
    monkeypatch.setenv(gpu.VISIBLE, "1")
    assert gpu.claim_gpu(folder=folder) is None and os.environ[gpu.VISIBLE] == "1"
    assert not folder.exists()


def test_a_machine_without_a_gpu_claims_nothing(two_devices, folder, monkeypatch):
    monkeypatch.setenv(gpu.DEVICES, "")
    assert gpu.claim_gpu(folder=folder) is None and gpu.VISIBLE not in os.environ


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
            gpu.claim_gpu(folder=folder)
    assert not list(folder.iterdir()) and gpu.VISIBLE not in os.environ


def test_a_folder_of_another_user_is_refused(two_devices, folder, monkeypatch):
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="belongs to user"):
        gpu.claim_gpu(folder=folder)
    assert not list(folder.iterdir())


def test_links_are_not_followed(two_devices, folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)
    with pytest.raises(PermissionError, match="is no folder, or a link to one"):
        gpu.claim_gpu(folder=folder)
    folder.unlink()
    folder.mkdir(mode=0o700)
    for device in ("0", "3"):
        (folder / f"{device}.lock").symlink_to(elsewhere / "made-by-a-lock")
    with pytest.raises(OSError):
        gpu.claim_gpu(folder=folder)
    assert not list(elsewhere.iterdir())


def test_a_claim_outlives_its_name(two_devices, folder, monkeypatch):
    gpu.claim_gpu(folder=folder)
    gc.collect()
    monkeypatch.delenv(gpu.VISIBLE)
    try:
        assert gpu.claim_gpu(folder=folder).device == "3"
    finally:
        for claim in [*gpu._claims]:
            claim.release()


def test_a_wait_is_said_and_ends(two_devices, folder, monkeypatch, caplog):
    caplog.set_level("INFO")
    for name, value in (("SECONDS_BETWEEN_LOOKS", 0.01), ("SECONDS_BETWEEN_MESSAGES", 0.02), ("LONGEST_WAIT", 0.2)):
        monkeypatch.setattr(gpu, name, value)
    claims = []
    for _ in range(2):
        claims.append(gpu.claim_gpu(folder=folder))
        monkeypatch.delenv(gpu.VISIBLE)
    try:
        with pytest.raises(TimeoutError, match="no GPU of 0, 3 got free within"):
            gpu.claim_gpu(folder=folder)
    finally:
        for claim in claims:
            claim.release()
    assert "all 2 GPUs are taken" in caplog.text and "still waiting for a GPU" in caplog.text


def test_names_of_devices_may_have_slashes(two_devices, folder, monkeypatch):
    monkeypatch.setenv(gpu.DEVICES, "MIG-GPU-ab12/1/0")
    claim = gpu.claim_gpu(folder=folder)
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
        "cli.claim_gpu = lambda device: sys.exit(f'claims, with torch imported: {\"torch\" in sys.modules}')\n"
        "cli.main(sys.argv[1:])\n"
    )
    ended = run_python("-c", code, *words.split(), folder=project)
    assert ended.returncode == 1 and ended.stderr.strip() == "claims, with torch imported: False"


def test_every_command_with_a_device_is_known_to_the_command_line():
    for command in cli.COMMANDS:
        actions = {action.dest: action for action in cli.command_parser(command)._actions}
        takes = "device" in actions and actions["device"].default == gpu.AUTO
        assert takes == (command in cli.ON_A_DEVICE), command


@pytest.mark.parametrize(
    ("words", "device"),
    [
        ("states --model m", "auto"),
        ("states --model m --device cpu", "cpu"),
        ("perplexity --device=cuda:1 --folder f", "cuda:1"),
        ("calibrate --device tpu", None),
        ("calibrate --device", None),
        ("calibrate --help", None),
        ("statistics --model m", None),
        ("benchmark --device cpu", None),
    ],
)
def test_a_device_is_read_from_the_flags_alone(words, device):
    command, *flags = words.split()
    assert cli.device_of(command, flags) == device


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:-1", "cuda:1,2", "CUDA", "", "cpu:0"])
def test_what_is_no_device_is_refused(text):
    with pytest.raises(ValueError, match="is no device; give auto, cpu, cuda"):
        gpu.checked_device(text)


def test_the_cpu_claims_nothing(two_devices, folder):
    assert gpu.claim_gpu("cpu", folder) is None and not folder.exists() and gpu.VISIBLE not in os.environ


def test_a_numbered_device_is_that_one_or_an_error(two_devices, folder, monkeypatch):
    claim = gpu.claim_gpu("cuda:1", folder)
    try:
        assert claim.device == os.environ[gpu.VISIBLE] == "3"
        monkeypatch.delenv(gpu.VISIBLE)
        with pytest.raises(ValueError, match=r"--device cuda:1: another process of altq has GPU 3 .its lock is in"):
            gpu.claim_gpu("cuda:1", folder)
        with pytest.raises(ValueError, match="--device cuda:2: GPUs there are 0, 3, counted from 0"):
            gpu.claim_gpu("cuda:2", folder)
        assert gpu.VISIBLE not in os.environ
    finally:
        claim.release()


def test_a_numbered_device_is_one_of_those_that_slurm_gave(two_devices, folder, monkeypatch):
    monkeypatch.setenv(gpu.VISIBLE, "5,7")
    assert gpu.claim_gpu("cuda", folder) is None and os.environ[gpu.VISIBLE] == "5,7"
    assert gpu.claim_gpu("cuda:1", folder) is None and os.environ[gpu.VISIBLE] == "7"
    with pytest.raises(ValueError, match="GPUs there are 7"):
        gpu.claim_gpu("cuda:1", folder)


@pytest.mark.parametrize("visible", [None, "", "-1"])
def test_a_gpu_that_is_not_there_is_one_line(two_devices, folder, monkeypatch, visible):
    if visible is None:
        monkeypatch.setenv(gpu.DEVICES, "")
    else:
        monkeypatch.setenv(gpu.VISIBLE, visible)
    shown = "nvidia-smi lists none" if visible is None else f"CUDA_VISIBLE_DEVICES={visible}"
    with pytest.raises(ValueError, match=rf"--device cuda: no GPU is there .{shown}.; give --device cpu"):
        gpu.claim_gpu("cuda", folder)
    assert gpu.claim_gpu(gpu.AUTO, folder) is None


def test_a_torch_without_cuda_is_named(two_devices, monkeypatch, caplog):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ValueError, match=r"--device cuda:1: torch .* is built without CUDA"):
        gpu.open_device("cuda:1")
    assert gpu.open_device(gpu.AUTO) == torch.device("cpu")
    assert "computing on the CPU, although there is a GPU: torch" in caplog.text
    assert gpu.open_device("cpu") == torch.device("cpu")


def test_an_old_driver_is_one_line_with_its_version(two_devices, monkeypatch, caplog):
    def too_old(*_, **__):
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update it")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch, "zeros", too_old)
    monkeypatch.setattr(gpu, "driver_version", lambda: "470.82")
    expected = r"--device cuda: torch \S+ cannot use it with driver 470.82 \(The NVIDIA driver .* 11040\).\); update"
    with pytest.raises(ValueError, match=expected) as refused:
        gpu.open_device("cuda")
    assert "\n" not in str(refused.value)
    assert gpu.open_device(gpu.AUTO).type == "cpu" and "update the driver" in caplog.text


def test_a_device_that_works_is_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    assert gpu.open_device("cuda:3").type == gpu.open_device(gpu.AUTO).type == "cuda"


def test_the_memory_that_is_taken_is_bounded_by_what_is_asked_for(monkeypatch):
    bounds = []
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (70e9, 80e9))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", bounds.append)
    assert gpu.open_device("cuda", 24.0).type == "cuda" and bounds == [0.3]
    with pytest.raises(ValueError, match=r"--gpu-memory 81: the GPU has 80\.0 GB; give no more than that"):
        gpu.open_device("cuda", 81.0)
    assert gpu.open_device("cpu", 81.0).type == "cpu" and len(bounds) == 1


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "24GB", ""])
def test_what_is_no_amount_of_memory_is_refused(text, capsys, tmp_path):
    flags = ["--model", tmp_path, "--tokens", tmp_path / "t.npy", "--loss", "mse", "--output", tmp_path / "out"]
    with pytest.raises(SystemExit):
        cli.main(["states", *map(str, flags), f"--gpu-memory={text}"])
    assert "is no amount of memory; give gigabytes, such as 24" in capsys.readouterr().err


def test_refusals_are_messages_of_the_command_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv(gpu.DEVICES, "")
    monkeypatch.delenv(gpu.VISIBLE, raising=False)
    flags = ["--model", tmp_path, "--tokens", tmp_path / "t.npy", "--loss", "mse", "--output", tmp_path / "out"]
    assert cli.main(["states", *map(str, flags), "--device", "cuda"]) == 1
    assert capsys.readouterr().err.startswith("altq: --device cuda: no GPU is there")
    with pytest.raises(SystemExit):
        cli.main(["states", *map(str, flags), "--device", "gpu"])
    assert "'gpu' is no device" in capsys.readouterr().err
