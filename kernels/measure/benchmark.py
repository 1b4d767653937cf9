"""Benchmark of the kernels that ship, beside what they replace and the limit of the machine.

One CPU thread is timed in processor time, several (or a GPU) on the clock.

  python -m kernels.measure.benchmark --threads 1 --output results/kernels/cpu.csv
"""

import argparse
import os
import time
from pathlib import Path

from kernels.measure.timing import Row, time_by_turns, write


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the benchmark to a parser."""
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="device to time (cpu)")
    parser.add_argument("--rounds", type=int, default=11, metavar="N", help="turns of each case (11)")
    parser.add_argument(
        "--seconds", type=float, default=0.05, metavar="S", help="seconds of a case in a turn, at least (0.05)"
    )
    parser.add_argument("--output", type=Path, help="table to write: .csv, and .json with the machine")
    cpu = parser.add_argument_group("on a CPU")
    cpu.add_argument("--variant", help="variant of the CPU kernels (the fastest)")
    cpu.add_argument("--groups", nargs="+", default=["linear", "layer"], choices=["linear", "layer"])
    cpu.add_argument("--shapes", nargs="+", metavar="NAME", help="some of the shapes (all)")
    cpu.add_argument("--tokens", nargs="+", type=int, metavar="N", help="some of the token counts (all)")


def run(arguments: argparse.Namespace) -> tuple[list[Row], dict[str, object]]:
    """Time the cases that the arguments choose, printing each row; returns the rows and the machine.

    On one thread of the CPU, the default, time is processor time. Raises ValueError for a GPU where there is none.
    """
    import torch

    if arguments.device == "gpu":
        if not torch.cuda.is_available():
            raise ValueError("there is no CUDA device here; measure on a machine that has one, or give --device cpu")
        from kernels.measure.gpu_cases import gpu_groups, machine

        groups, clock, synchronise = gpu_groups(), time.perf_counter, torch.cuda.synchronize
    else:
        from kernels.measure.cpu_cases import cpu_groups, machine

        threads = arguments.threads or 1
        if hasattr(os, "sched_getaffinity") and threads > (cores := len(os.sched_getaffinity(0))):
            raise ValueError(f"--threads {threads}: this process may use {cores} cores")
        torch.set_num_threads(threads)
        groups = cpu_groups(arguments.groups, arguments.variant, arguments.shapes, arguments.tokens)
        clock, synchronise = time.thread_time if threads == 1 else time.perf_counter, lambda: None
    rows, extent = [], {"rounds": arguments.rounds, "seconds_per_case": arguments.seconds}
    with torch.no_grad():
        for cases in groups:
            for row in time_by_turns(cases, **extent, clock=clock, synchronise=synchronise, warmups=1):
                rows.append(row)
                print(_line(row), flush=True)
    return rows, machine()


def main() -> None:
    """Run the benchmark as its flags say, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the CPU (1: timed in processor time)")
    arguments = parser.parse_args()
    rows, machine = run(arguments)
    if arguments.output:
        write(rows, machine, arguments.output)


def _line(row: Row) -> str:
    labels, limit = row.labels, "" if row.limit_seconds is None else f", limit {1e3 * row.limit_seconds:.3f}"
    return (
        f"{labels.device} {labels.phase:8} {labels.shape:14} {labels.tokens:5} tokens, cache {labels.kv_length:5}  "
        f"{labels.method:12} {1e3 * row.median_seconds:9.3f} ms "
        f"({1e3 * row.low_seconds:.3f} to {1e3 * row.high_seconds:.3f}{limit})  "
        f"x {row.ratio:.2f} ({row.ratio_low:.2f} to {row.ratio_high:.2f})"
    )


if __name__ == "__main__":
    main()
