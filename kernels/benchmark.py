"""Time the kernels that ship, beside what they replace and the limit of the machine.

Cases of one group are timed by turns, a few calls each, for many rounds: whatever else the machine does in a round meets
all of them. A ratio is the median of the rounds' own ratios to the group's first case. One CPU thread is timed in
processor time, several (or a GPU) on the clock.

  python -m kernels.benchmark --threads 1 --output results/kernels/cpu.csv
"""

import argparse
import csv
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Labels:
    """What a row is about; `tokens` are those of a call, `kv_length` those in the cache before it."""

    device: str
    phase: str
    shape: str
    tokens: int
    kv_length: int
    method: str


@dataclass(frozen=True)
class Case:
    """Something to time. limit_seconds: what no implementation on this machine can be faster than, None if not known."""

    labels: Labels
    run: Callable[[], object]
    limit_seconds: float | None = None


@dataclass(frozen=True)
class Row:
    """The times of a case in seconds: median and quartiles over the rounds; ratios are baseline over case."""

    labels: Labels
    median_seconds: float
    low_seconds: float
    high_seconds: float
    ratio: float
    ratio_low: float
    ratio_high: float
    limit_seconds: float | None
    rounds: int

    def flat(self) -> dict[str, object]:
        """One level of columns, for a table."""
        columns = asdict(self)
        return columns.pop("labels") | columns


def measure(
    cases: Sequence[Case],
    *,
    rounds: int,
    seconds_per_case: float,
    clock: Callable[[], float],
    warmups: int = 3,
    synchronise: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Time the cases of one group by turns; the first is the baseline.

    Each round calls a case so often that it takes about `seconds_per_case`, once at least. The first `warmups` calls,
    and the one that says how long a call is, do not count.
    """
    calls = []
    for case in cases:
        for _ in range(warmups):
            case.run()
        synchronise()
        start = clock()
        case.run()
        synchronise()
        calls.append(max(1, round(seconds_per_case / max(clock() - start, 1e-9))))
    times: list[list[float]] = [[] for _ in cases]
    for turn in range(rounds):
        # Each round starts with another case: none is always the one behind a given other.
        for index in [(turn + offset) % len(cases) for offset in range(len(cases))]:
            synchronise()
            start = clock()
            for _ in range(calls[index]):
                cases[index].run()
            synchronise()
            times[index].append((clock() - start) / calls[index])
    rows = []
    for case, own in zip(cases, times, strict=True):
        ratios = [baseline / seconds for baseline, seconds in zip(times[0], own, strict=True)]
        low, median, high = quartiles(own)
        ratio_low, ratio, ratio_high = quartiles(ratios)
        rows.append(Row(case.labels, median, low, high, ratio, ratio_low, ratio_high, case.limit_seconds, rounds))
    return rows


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The quartiles of one value or more."""
    return tuple(statistics.quantiles(values, n=4, method="inclusive")) if len(values) > 1 else 3 * (values[0],)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="what is timed (cpu)")
    parser.add_argument("--rounds", type=int, default=11, metavar="N", help="turns of each case (11)")
    parser.add_argument("--seconds", type=float, default=0.05, metavar="S", help="of a case in a turn, at least (0.05)")
    parser.add_argument("--output", type=Path, help="table to write: .csv, and .json with the machine")
    cpu = parser.add_argument_group("on a CPU")
    cpu.add_argument("--variant", help="of the CPU kernels (the fastest)")
    cpu.add_argument("--groups", nargs="+", default=["linear", "layer"], choices=["linear", "layer"])
    cpu.add_argument("--shapes", nargs="+", metavar="NAME", help="some of the shapes (all)")
    cpu.add_argument("--tokens", nargs="+", type=int, metavar="N", help="some of the token counts (all)")


def run(arguments: argparse.Namespace) -> tuple[list[Row], dict[str, object]]:
    """Time what is asked for, printing each row; the rows, and what they were measured on.

    On one thread of the CPU, which is meant where none is asked for, time is processor time. ValueError where a GPU is
    asked for and there is none.
    """
    import torch

    if arguments.device == "gpu":
        if not torch.cuda.is_available():
            raise ValueError("there is no CUDA device here; measure on a machine that has one, or give --device cpu")
        from kernels.triton.cases import gpu_groups, machine

        groups, clock, synchronise = gpu_groups(), time.perf_counter, torch.cuda.synchronize
    else:
        from kernels.cpu.cases import cpu_groups, machine

        threads = arguments.threads or 1
        torch.set_num_threads(threads)
        groups = cpu_groups(arguments.groups, arguments.variant, arguments.shapes, arguments.tokens)
        clock, synchronise = time.thread_time if threads == 1 else time.perf_counter, lambda: None
    rows, asked = [], {"rounds": arguments.rounds, "seconds_per_case": arguments.seconds}
    with torch.no_grad():
        for cases in groups:
            for row in measure(cases, **asked, clock=clock, synchronise=synchronise, warmups=1):
                rows.append(row)
                print(_line(row), flush=True)
    return rows, machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the CPU (1: timed in processor time)")
    arguments = parser.parse_args()
    rows, machine = run(arguments)
    if arguments.output:
        write(rows, machine, arguments.output)


def write(rows: Sequence[Row], machine: dict[str, object], path: Path) -> None:
    """The rows as a tidy .csv, and beside it a .json of what they were measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0].flat()))
        writer.writeheader()
        writer.writerows(row.flat() for row in rows)
    record = {"python": platform.python_version(), **machine}
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


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
