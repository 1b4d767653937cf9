"""Every kernel, compiled for targets that are not at hand: in a process of its own, since here they are interpreted."""

import csv
import os
import re
import subprocess
import sys

import pytest

from kernels.measure.compilation import MULTIPROCESSOR, check_lanes, occupancy
from kernels.triton.launch import TARGETS

# What multiplies on each target: HMMA and IMMA a warp at a time, HGMMA and IGMMA a warp group, UTC* Blackwell's.
HALF = {"sm_80": "HMMA", "sm_89": "HMMA", "sm_90": "HGMMA|HMMA", "sm_100": "UTCHMMA|HMMA"}
# Triton 3.7 compiles int8 products for sm_100 to IMMA, plain ones of 128 x 128, too; 3.9 to Blackwell's own, UTCIMMA.
INT8 = {"sm_80": "IMMA.16832.S8", "sm_89": "IMMA.16832.S8", "sm_90": "IGMMA", "sm_100": "UTCIMMA|UTCQMMA|IMMA.16832.S8"}
INSTRUCTION = {
    "transform_quantize": HALF,
    "append": HALF,
    "decode_attention": HALF,
    "linear": INT8,
    "linear_int4": {"sm_80": "IMMA.16864.S4.S4", "sm_89": "IMMA.16864.S4.S4"},
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory, project):
    path = tmp_path_factory.mktemp("compiled") / "compiled.csv"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "kernels.measure.compilation", str(path)]
    result = subprocess.run(
        command,
        cwd=project,
        env=environment | {"PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_kernel_compiles_for_every_target(rows):
    compiled = {(row["kernel"], row["target"]) for row in rows}
    all_targets = {f"sm_{target}" for target in TARGETS}
    for kernel in (*INSTRUCTION, "merge"):
        targets = INSTRUCTION["linear_int4"].keys() if kernel == "linear_int4" else all_targets
        assert {(kernel, target) for target in targets} <= compiled
    assert not {(kernel, target) for kernel, target in compiled if kernel == "linear_int4"} - {
        ("linear_int4", "sm_80"), ("linear_int4", "sm_89")
    }  # fmt: skip


@pytest.mark.slow
def test_nothing_is_spilled_and_everything_fits(rows):
    for row in rows:
        target = int(row["target"].removeprefix("sm_"))
        assert int(row["spills"]) == 0, row
        assert 0 < int(row["registers"]) <= 255, row
        assert int(row["shared_bytes"]) <= MULTIPROCESSOR[target].shared_of_program, row
        assert 0 < float(row["occupancy"]) <= 1 and float(row["limit_us"]) > 0 and row["bound"], row


@pytest.mark.slow
def test_tensor_cores_multiply(rows):
    for row in rows:
        if row["kernel"] in INSTRUCTION:
            assert re.search(INSTRUCTION[row["kernel"]][row["target"]], row["tensor_core"]), row


@pytest.mark.slow
def test_the_interpreter_has_nothing_to_compile(project, tmp_path):
    command = [sys.executable, "-m", "kernels.measure.compilation", str(tmp_path / "compiled.csv")]
    environment = os.environ | {"PYTHONPATH": str(project), "TRITON_INTERPRET": "1"}
    result = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode != 0 and "unset it" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "registers", "shared", "num_warps", "expected"),
    [
        (80, 32, 0, 4, 1.0),  # 2048 threads of 32 registers
        (80, 128, 0, 4, 0.25),
        (80, 129, 0, 4, 0.1875),  # a step of 8 registers more, and a program of four warps fewer
        (80, 255, 0, 8, 0.125),
        (89, 64, 50 << 10, 4, 1 / 12),  # 51 KB each: one program of 4 warps among 48
        (90, 64, 113 << 10, 4, 0.125),
    ],
)
def test_occupancy(target, registers, shared, num_warps, expected):
    assert occupancy(target, registers, shared, num_warps) == expected


def test_lanes_in_another_order_are_noticed():
    line = 'elementwise_inline_asm "mma.sync" {} : tensor<128xi32, #blocked> -> tensor<128xi32, #blocked>'
    good = "#blocked = #ttg.blocked<{sizePerThread = [1], threadsPerWarp = [32], warpsPerCTA = [4], order = [0]}>"
    check_lanes(f"{good}\n{line}", 4)
    for text, num_warps in ((f"{good}\n{line}", 8), (good, 4), (f"{good.replace('[1]', '[2]')}\n{line}", 4)):
        with pytest.raises(AssertionError):
            check_lanes(text, num_warps)
