"""Timing by turns, and its results as a table.

Cases of one group are timed by turns, a few calls each, for many rounds: whatever else the machine does in a round
meets all of them. A ratio is the median of the rounds' own ratios to the group's first case.
"""

import csv
import json
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Labels:
    """The labels of a case; `tokens` are those of a call, `kv_length` those in the cache before it."""

    device: str
    phase: str
    shape: str
    tokens: int
    kv_length: int
    method: str


@dataclass(frozen=True)
class Case:
    """A call to time. limit_seconds: the least time that any implementation takes on this machine, None if unknown."""

    labels: Labels
    run: Callable[[], object]
    limit_seconds: float | None = None


@dataclass(frozen=True)
class Row:
    """The times of a case: median and quartiles over the rounds, in seconds; ratios are baseline over case."""

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
        """The columns of a table, by name."""
        columns = asdict(self)
        return columns.pop("labels") | columns


def time_by_turns(
    cases: Sequence[Case],
    *,
    rounds: int,
    seconds_per_case: float,
    clock: Callable[[], float],
    warmups: int = 3,
    synchronise: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Time the cases of one group by turns; the first is the baseline.

    Each round calls a case as often as fits into `seconds_per_case`, once at least. The first `warmups` calls, and one
    more that measures how long a call is, do not count.
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
        # Each round starts with another case, so that no case always follows the same one.
        for index in [(turn + offset) % len(cases) for offset in range(len(cases))]:
            synchronise()
            start = clock()
            for _ in range(calls[index]):
                cases[index].run()
            synchronise()
            times[index].append((clock() - start) / calls[index])
    rows = []
    for case, seconds in zip(cases, times, strict=True):
        ratios = [baseline / time for baseline, time in zip(times[0], seconds, strict=True)]
        low, median, high = quartiles(seconds)
        ratio_low, ratio, ratio_high = quartiles(ratios)
        rows.append(Row(case.labels, median, low, high, ratio, ratio_low, ratio_high, case.limit_seconds, rounds))
    return rows


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The three quartiles of one value or more."""
    return tuple(statistics.quantiles(values, n=4, method="inclusive")) if len(values) > 1 else 3 * (values[0],)


def write(rows: Sequence[Row], machine: dict[str, object], path: Path) -> None:
    """Write the rows as a tidy .csv, and the machine as a .json beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0].flat()))
        writer.writeheader()
        writer.writerows(row.flat() for row in rows)
    record = {"python": platform.python_version(), **machine}
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
