"""Registers, spills, shared memory and instructions of every GPU kernel, compiled for targets that are not at hand.

  python -m kernels.measure.compilation FILE.csv

The calls of `kernels.measure.compilation_cases` are made under `recording`, so that kernels are compiled with the
tiles, constants and argument types of their launches. No driver is needed. Registers, spills and instructions are read
from the machine code by the tools that come with Triton.
"""

import csv
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.measure.compilation_cases import Case, cases
from kernels.measure.roofline import A100, B200, H100, RTX_4090, Work
from kernels.triton.launch import INTERPRETED, OPTIONS, TARGETS, Launch, recording

GPU_OF_TARGET = {gpu.target: gpu for gpu in (A100, RTX_4090, H100, B200)}
"""Target -> the GPU whose rates the limits are computed with."""


@dataclass(frozen=True)
class Multiprocessor:
    """The resources of a multiprocessor; bytes of shared memory, in all and for one program (CUDA C++ guide)."""

    warps: int
    programs: int
    shared: int
    shared_of_program: int
    registers: int = 65536


MULTIPROCESSOR = {
    80: Multiprocessor(64, 32, 164 << 10, 163 << 10),
    89: Multiprocessor(48, 24, 100 << 10, 99 << 10),
    90: Multiprocessor(64, 32, 228 << 10, 227 << 10),
    100: Multiprocessor(64, 32, 228 << 10, 227 << 10),
}


@dataclass(frozen=True)
class CompiledKernel:
    """A row of compiled.csv. limit_us: the least time of the work on `gpu`, `bound` the resource that it takes; not measured."""

    kernel: str
    case: str
    target: str
    registers: int
    spills: int  # instructions that store registers to local memory or load them back
    shared_bytes: int
    tensor_core: str  # the instructions, empty where there is none
    num_warps: int
    occupancy: float  # warps on a multiprocessor, as a share of the most there can be
    programs: int
    gpu: str
    limit_us: float
    bound: str


def compile_all(targets: tuple[int, ...] = TARGETS) -> list[CompiledKernel]:
    """Compile every case for every target; some two minutes where Triton's cache is empty."""
    return [row for case in cases() for row in compile_case(case, targets)]


def compile_case(case: Case, targets: tuple[int, ...] = TARGETS) -> Iterator[CompiledKernel]:
    """A row for each launch of a case and each target that the case is made for."""
    for target in targets:
        if target not in case.targets:
            continue
        with recording(target) as launches:
            case.call()
        for number, launch in enumerate(launches):
            yield _row(case, launch, target, merge=number > 0)


def _row(case: Case, launch: Launch, target: int, *, merge: bool) -> CompiledKernel:
    binary = compile_launch(launch, target)
    registers, instructions = _read_cubin(binary.asm["cubin"])
    if any("IMMA.16864" in name for name in instructions):
        check_lanes(binary.asm["ttgir"], launch.num_warps)
    gpu = GPU_OF_TARGET[target]
    seconds, bound = (0.0, "memory") if merge else case.work.bound(gpu)
    if merge:
        moved = sum(t.numel() * t.element_size() for t in launch.arguments.values() if isinstance(t, Tensor))
        seconds, bound = Work(bytes=moved).bound(gpu)
    return CompiledKernel(
        kernel=launch.kernel.__name__.removesuffix("_kernel"),
        case=case.name,
        target=f"sm_{target}",
        registers=registers,
        spills=sum(name.startswith(("STL", "LDL")) for name in instructions),
        shared_bytes=binary.metadata.shared,
        tensor_core=" ".join(sorted({name for name in instructions if "MMA" in name.split(".")[0]})),
        num_warps=launch.num_warps,
        occupancy=occupancy(target, registers, binary.metadata.shared, launch.num_warps),
        programs=torch.Size(launch.grid).numel(),
        gpu=gpu.name,
        limit_us=float(f"{seconds * 1e6:.3g}"),
        bound=bound,
    )


_TYPES = {
    torch.float16: "*fp16", torch.float32: "*fp32", torch.uint8: "*u8", torch.int8: "*i8", torch.int16: "*i16",
    torch.int32: "*i32",
}  # fmt: skip


def compile_launch(launch: Launch, target: int):
    """Triton's binary for a recorded launch, specialised as its own launcher would.

    Pointers and integers that 16 divides are marked so, an integer 1 is a constant. Raises RuntimeError where kernels
    were defined for the interpreter.
    """
    if INTERPRETED:
        raise RuntimeError("TRITON_INTERPRET is set, so there is nothing to compile: unset it")
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1):
            signature[parameter.name], constants[(index,)] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[parameter.name] = _TYPES[value.dtype]
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
        if isinstance(value, Tensor) or (signature[parameter.name] == "i32" and value % 16 == 0):
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, attributes)
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages, **OPTIONS}
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)


def occupancy(target: int, registers: int, shared: int, num_warps: int) -> float:
    """The share of a multiprocessor's warps that programs of this size fill.

    Registers are given to a warp in steps of 256, shared memory with 1 KB for the system.
    """
    limits = MULTIPROCESSOR[target]
    registers_of_warp = -(-registers * 32 // 256) * 256
    programs = min(
        limits.programs,
        limits.warps // num_warps,
        limits.registers // registers_of_warp // num_warps,
        limits.shared // (shared + 1024),
    )
    return programs * num_warps / limits.warps


def check_lanes(ttgir: str, num_warps: int) -> None:
    """AssertionError unless every operand of the int4 instruction has one element for each thread, in their order."""
    lines = re.findall(r'elementwise_inline_asm "mma\.sync.*', ttgir)
    layouts = {layout for line in lines for layout in re.findall(r"tensor<\d+xi32, (#\w+)>", line)}
    layout_text = f"sizePerThread = [1], threadsPerWarp = [32], warpsPerCTA = [{num_warps}], order = [0]"
    assert lines and layouts, "the int4 instruction is not in the kernel"
    for layout in layouts:
        assert re.search(rf"^{layout} = #ttg\.blocked<{{{re.escape(layout_text)}}}>", ttgir, re.MULTILINE), layout


def _read_cubin(cubin: bytes) -> tuple[int, list[str]]:
    """Registers of a thread, and the instructions of the machine code in order."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
        usage, code = (
            subprocess.run([tools / tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for tool, option in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    instructions = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)", code, re.MULTILINE)
    return int(re.search(r"REG:(\d+)", usage).group(1)), instructions


def write_compiled(path: Path) -> None:
    """Compile all cases and write a row for each target."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, all_cases = [], list(cases())
    for number, case in enumerate(all_cases, 1):
        rows += compile_case(case)
        print(f"{number}/{len(all_cases)} {case.name}", file=sys.stderr, flush=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(CompiledKernel)])
        writer.writeheader()
        writer.writerows(map(asdict, rows))
    partial.replace(path)


def main() -> None:
    """Compile every kernel for every target, and write the table of what that gave."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m kernels.measure.compilation FILE.csv")
    write_compiled(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
