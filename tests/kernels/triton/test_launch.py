import os
import subprocess
import sys

import pytest
import torch

from kernels.triton.kronecker import transform_quantize
from kernels.triton.launch import recording, target_of


def test_a_tensor_on_the_cpu_needs_the_interpreter(project):
    code = (
        "import torch; from kernels.triton.kronecker import transform_quantize;"
        "transform_quantize(torch.zeros(1, 16).half(), None, None, torch.ones(1), bits=4)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert "RuntimeError: Triton kernels run on NVIDIA GPUs, and this tensor is on cpu" in result.stderr
    assert "TRITON_INTERPRET=1" in result.stderr


def test_a_tensor_without_values_is_refused_outside_a_recording():
    x, clips = torch.empty(3, 64, dtype=torch.float16, device="meta"), torch.ones(1, device="meta")
    with pytest.raises(RuntimeError, match="this tensor is on meta"):
        transform_quantize(x, None, None, clips, bits=4)
    with recording(90) as launches:
        codes, scales = transform_quantize(x, None, None, clips, bits=4)
    assert [launch.grid for launch in launches] == [(1,)] and codes.shape == (1, 3, 32) and scales.shape == (1, 3)
    with pytest.raises(RuntimeError, match="this tensor is on meta"):
        target_of(x)


def test_only_targets_with_a_table_are_recorded():
    with pytest.raises(ValueError, match="no kernel is laid out for compute capability 75"), recording(75):
        pass


def test_tensors_of_two_devices_are_refused(device):
    x = torch.zeros(3, 64, dtype=torch.float16, device=device)
    with pytest.raises(ValueError, match="clips is on meta"):
        transform_quantize(x, None, None, torch.ones(1, device="meta"), bits=4)
