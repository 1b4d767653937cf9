"""What the doctor says of GPUs, with an nvidia-smi that is made up."""

import pytest

from altq.resources import gpu_checks
from altq.resources.checks import MISSING, NOTE, OK
from altq.resources.dry_run import Job
from altq.resources.gpu_checks import Gpu, check_gpu_memory, check_gpus, check_triton, list_gpus
from altq.resources.machine import Cost
from altq.resources.schedule import Planned

H100 = "NVIDIA H100 80GB HBM3, 580.65.06, 81559, 9.0"


@pytest.fixture
def nvidia_smi(monkeypatch, tmp_path):
    """nvidia-smi(text) makes a program that prints it, whatever is asked."""

    def make(text, code=0):
        path = tmp_path / "nvidia-smi"
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        monkeypatch.setenv("ALTQ_GPU_DEVICES", "0")

    return make


def test_card_memory_driver_and_capability_are_read(nvidia_smi):
    nvidia_smi(f"{H100}\nOdd, name, 535.1, 24576, 8.6")
    assert list_gpus() == [
        Gpu("NVIDIA H100 80GB HBM3", "580.65.06", 81559 * 2**20, 90),
        Gpu("Odd, name", "535.1", 24576 * 2**20, 86),
    ]


@pytest.mark.parametrize(("text", "code"), [("", 0), ("no devices", 0), ("a, b, [N/A], 9.0", 0), (H100, 9)])
def test_what_is_no_gpu_is_none(nvidia_smi, text, code):
    nvidia_smi(text, code)
    assert list_gpus() == []


def test_a_machine_without_one_says_so(monkeypatch):
    monkeypatch.setenv("ALTQ_GPU_DEVICES", "")
    (check,) = check_gpus()
    assert check.state == NOTE and check.finding == "none; everything runs on processors"


def test_a_gpu_that_torch_cannot_use_is_named_with_its_driver(nvidia_smi, monkeypatch):
    nvidia_smi(H100)

    def refuse(device):
        raise ValueError("torch is built without CUDA")

    monkeypatch.setattr(gpu_checks, "open_device", refuse)
    checks = {check.name: check for check in check_gpus()}
    assert checks["GPU 0"].finding == "NVIDIA H100 80GB HBM3, 86 GB, driver 580.65.06"
    assert checks["torch on the GPU"].state == MISSING and "without CUDA" in checks["torch on the GPU"].finding
    assert "Triton, sm_90" in checks


def test_triton_compiles_for_a_card_that_is_not_there_unless_it_is_interpreted(run_python, project, monkeypatch):
    assert check_triton(75).state == NOTE
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    code = "from altq.resources.gpu_checks import check_triton; print(check_triton(90))"
    result = run_python("-c", code, folder=project)
    assert "state='ok'" in result.stdout and "for sm_90" in result.stdout, result.stderr
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "does not compile" in run_python("-c", code, folder=project).stdout


@pytest.mark.parametrize(("needed", "state"), [(70e9, OK), (90e9, MISSING)])
def test_a_stage_that_does_not_fit_a_gpu_is_said_before_the_run(nvidia_smi, needed, state):
    nvidia_smi(H100)
    job = Job(rule="assemble", wildcards={}, threads=4, inputs=(), outputs=())
    planned = [Planned(job, Cost(1, 1, 1, gpu_memory=needed), gpu=True)]
    check = check_gpu_memory(planned)
    assert check.state == state and "assemble is planned to take" in check.finding and "has 85.5" in check.finding
    assert check_gpu_memory([Planned(job, Cost(1, 1, 1), gpu=False)]) is None


def test_without_a_gpu_there_is_no_such_check(monkeypatch):
    monkeypatch.setenv("ALTQ_GPU_DEVICES", "")
    job = Job(rule="assemble", wildcards={}, threads=4, inputs=(), outputs=())
    assert check_gpu_memory([Planned(job, Cost(1, 1, 1, gpu_memory=1e12), gpu=True)]) is None
