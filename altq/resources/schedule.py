"""When the jobs of a plan run: the critical path, and the end on so many cores and GPUs."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from altq.resources.dry_run import Job
from altq.resources.machine import Cost


@dataclass(frozen=True)
class Planned:
    """A job with what it costs and whether it takes a GPU."""

    job: Job
    cost: Cost
    gpu: bool


def waits_for(jobs: Sequence[Planned]) -> list[set[int]]:
    """For each job, the positions of those whose outputs it reads."""
    maker = {path: position for position, planned in enumerate(jobs) for path in planned.job.outputs}
    return [{maker[path] for path in planned.job.inputs if path in maker} for planned in jobs]


def depths(jobs: Sequence[Planned]) -> list[int]:
    """For each job, the length of the longest chain of jobs before it."""
    before = waits_for(jobs)
    steps = [0] * len(jobs)
    for position in _in_order(before):
        steps[position] = max((steps[b] + 1 for b in before[position]), default=0)
    return steps


def critical_path(jobs: Sequence[Planned]) -> list[int]:
    """The positions of the jobs whose seconds, one after the other, are the longest wait there is; first to last."""
    before = waits_for(jobs)
    ends: list[float | None] = [None] * len(jobs)
    for position in _in_order(before):
        ends[position] = jobs[position].cost.seconds + max((ends[b] for b in before[position]), default=0.0)
    path: list[int] = []
    candidates = set(range(len(jobs)))
    while candidates:
        path.append(max(candidates, key=lambda position: ends[position]))
        candidates = before[path[-1]]
    return path[::-1]


def finished_after(jobs: Sequence[Planned], cores: int, gpus: int, memory: float) -> float:
    """Seconds until all jobs are done where each starts as soon as there is room, the longest wait behind it first.

    A job that needs more cores or memory than there are gets all of them; memory in bytes.
    """
    before = waits_for(jobs)
    behind = _seconds_behind(jobs, before)
    needs = [(min(p.job.threads, cores), min(int(p.gpu), gpus), min(p.cost.memory, memory)) for p in jobs]
    free = [float(cores), float(gpus), memory]
    waiting = [set(b) for b in before]
    ready = [(-behind[i], i) for i in range(len(jobs)) if not waiting[i]]
    heapq.heapify(ready)
    after: list[list[int]] = [[] for _ in jobs]
    for position, earlier in enumerate(before):
        for b in earlier:
            after[b].append(position)
    running: list[tuple[float, int]] = []
    now = 0.0
    while ready or running:
        held_back = []
        while ready:
            entry = heapq.heappop(ready)
            wanted = needs[entry[1]]
            if all(want <= have for want, have in zip(wanted, free, strict=True)):
                free = [have - want for want, have in zip(wanted, free, strict=True)]
                heapq.heappush(running, (now + jobs[entry[1]].cost.seconds, entry[1]))
            else:
                held_back.append(entry)
        now, done = heapq.heappop(running)
        free = [have + want for want, have in zip(needs[done], free, strict=True)]
        for position in after[done]:
            waiting[position].discard(done)
            if not waiting[position]:
                held_back.append((-behind[position], position))
        ready = held_back
        heapq.heapify(ready)
    return now


def _seconds_behind(jobs: Sequence[Planned], before: Sequence[set[int]]) -> list[float]:
    """Of each job, its own seconds and those of the longest wait that follows it."""
    behind = [planned.cost.seconds for planned in jobs]
    for position in reversed(_in_order(before)):
        for b in before[position]:
            behind[b] = max(behind[b], jobs[b].cost.seconds + behind[position])
    return behind


def _in_order(before: Sequence[set[int]]) -> list[int]:
    """Positions so that each stands after those it waits for."""
    order, seen = [], set()
    for start in range(len(before)):
        stack = [start]
        while stack:
            position = stack[-1]
            left = [b for b in before[position] if b not in seen]
            if position in seen:
                stack.pop()
            elif left:
                stack += left
            else:
                seen.add(position)
                order.append(position)
                stack.pop()
    return order
