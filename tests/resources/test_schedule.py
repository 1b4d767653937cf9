"""Jobs in a dry run's text, the critical path, and when all of them are done."""

import pytest

from altq.resources.dry_run import Job, parse_jobs
from altq.resources.machine import Cost
from altq.resources.plan import stage_plans
from altq.resources.schedule import Planned, critical_path, depths, finished_after

DRY_RUN = """\
Building DAG of jobs...
Job stats:
job       count
[Sun Nov 22 10:01:54 2026]
rule fetch_model:
    output: results/models/made/source.json
    jobid: 3
    wildcards: model=made
    resources: tmpdir=/tmp, mem_mb=2000
[Sun Nov 22 10:01:54 2026]
checkpoint states:
    input: results/models/made/source.json, results/tokens/a.npy
    output: results/states/made/seed0/states.json, results/states/b
    wildcards: model=made, seed=0
    threads: 8
    resources: tmpdir=/tmp

localrule all:
    input: results/states/b
    resources: tmpdir=/tmp
"""


def planned(*jobs):
    """Jobs as (name, seconds, those it waits for, threads, gpu, memory)."""
    return [
        Planned(Job(name, {}, threads, tuple(before), (name,)), Cost(seconds, memory, 1.0), gpu)
        for name, seconds, before, threads, gpu, memory in jobs
    ]


DIAMOND = (
    ("first", 10, "", 1, False, 1),
    ("short", 5, ["first"], 1, False, 1),
    ("long", 20, ["first"], 1, False, 1),
    ("last", 1, ["short", "long"], 1, False, 1),
)


def test_the_jobs_of_a_dry_run():
    fetch, states, every = parse_jobs(DRY_RUN)
    assert fetch == Job("fetch_model", {"model": "made"}, 1, (), ("results/models/made/source.json",))
    assert states.threads == 8 and states.wildcards == {"model": "made", "seed": "0"}
    assert states.inputs == ("results/models/made/source.json", "results/tokens/a.npy") and len(states.outputs) == 2
    assert every.rule == "all" and every.outputs == ()


def test_the_critical_path_is_the_longest_wait():
    jobs = planned(*DIAMOND)
    assert [jobs[position].job.rule for position in critical_path(jobs)] == ["first", "long", "last"]
    assert depths(jobs) == [0, 1, 1, 2]


@pytest.mark.parametrize(("cores", "seconds"), [(1, 36), (2, 31), (8, 31)])
def test_cores_shorten_it_down_to_the_critical_path(cores, seconds):
    assert finished_after(planned(*DIAMOND), cores, 0, 100) == seconds


def test_jobs_wait_for_cores_memory_and_gpus():
    four = [(f"{n}", 10, "", 4, True, 60) for n in range(4)]
    assert finished_after(planned(*four), 16, 4, 1000) == 10
    assert finished_after(planned(*four), 8, 4, 1000) == 20
    assert finished_after(planned(*four), 16, 1, 1000) == 40
    assert finished_after(planned(*four), 16, 4, 100) == 40
    assert finished_after(planned(*four), 2, 0, 10) == 40  # more than there is: all of it, one after the other


def test_a_row_for_each_stage_in_order():
    first, second, third = stage_plans(planned(*DIAMOND, ("long", 30, ["first"], 2, True, 7)))[:3]
    assert (first.stage, second.stage, third.stage) == ("first", "long", "short")
    assert second.jobs == 2 and second.threads == 2 and second.memory == 7
    assert (60 * second.least_minutes, 60 * second.most_minutes, 3600 * second.hours) == (20, 30, 50)
