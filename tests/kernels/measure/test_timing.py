"""Timing by turns, on a clock that the cases themselves turn."""

import csv
import json

from kernels.measure.timing import Case, Labels, quartiles, time_by_turns, write


class Clock:
    """Time passes only while a case runs."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def case(self, method, seconds):
        def run():
            self.calls.append(method)
            self.now += seconds * (1 + self.calls.count(method) % 2)

        return Case(Labels("CPU", "linear", "2x2", 1, 0, method), run, limit_seconds=0.5)

    def __call__(self):
        return self.now


def test_cases_take_turns_and_ratios_are_of_the_same_round():
    clock = Clock()
    rows = time_by_turns(
        [clock.case("slow", 4.0), clock.case("fast", 1.0)], rounds=5, seconds_per_case=0.0, clock=clock
    )
    assert clock.calls[:8] == 4 * ["slow"] + 4 * ["fast"], "warm-up"
    assert clock.calls[8:] == ["slow", "fast", "fast", "slow", "slow", "fast", "fast", "slow", "slow", "fast"]
    assert [row.ratio for row in rows] == [1.0, 4.0] and rows[1].limit_seconds == 0.5
    assert rows[0].low_seconds <= rows[0].median_seconds <= rows[0].high_seconds and rows[0].rounds == 5


def test_short_cases_are_called_often():
    clock = Clock()
    time_by_turns([clock.case("short", 0.001)], rounds=2, seconds_per_case=0.1, clock=clock)
    assert len(clock.calls) - 4 in (2 * 100, 2 * 50)


def test_quartiles():
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


def test_rows_are_a_tidy_table(tmp_path):
    clock = Clock()
    rows = time_by_turns([clock.case("a", 1.0), clock.case("b", 2.0)], rounds=3, seconds_per_case=0.0, clock=clock)
    write(rows, {"cpu": "some"}, tmp_path / "deep" / "rows.csv")
    with (tmp_path / "deep" / "rows.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [row["method"] for row in read] == ["a", "b"] and float(read[1]["ratio"]) == 0.5
    assert json.loads((tmp_path / "deep" / "rows.json").read_text())["cpu"] == "some"
