"""Schedule of a plan: the critical path, and the end on so many cores and GPUs."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from altq.resources.dry_run import Job
from altq.resources.machine import Cost


@dataclass(frozen=True)
class Planned:
    """A job with its cost; `gpu` tells whether it takes one."""

    job: Job
    cost: Cost
    gpu: bool


def predecessors(jobs: Sequence[Planned]) -> list[set[int]]:
    """Predecessors of each job: positions of the jobs whose outputs it reads."""
    maker = {path: position for position, planned in enumerate(jobs) for path in planned.job.outputs}
    return [{maker[path] for path in planned.job.inputs if path in maker} for planned in jobs]


def depths(jobs: Sequence[Planned]) -> list[int]:
    """Depth of each job: length of the longest chain of jobs before it."""
    preceding = predecessors(jobs)
    steps = [0] * len(jobs)
    for position in _in_order(preceding):
        steps[position] = max((steps[b] + 1 for b in preceding[position]), default=0)
    return steps


def critical_path(jobs: Sequence[Planned]) -> list[int]:
    """Positions of the jobs on the critical path, the chain of jobs with the most seconds, first to last."""
    preceding = predecessors(jobs)
    ends = [0.0] * len(jobs)
    for position in _in_order(preceding):
        ends[position] = jobs[position].cost.seconds + max((ends[b] for b in preceding[position]), default=0.0)
    path: list[int] = []
    candidates = set(range(len(jobs)))
    while candidates:
        path.append(max(candidates, key=lambda position: ends[position]))
        candidates = preceding[path[-1]]
    return path[::-1]


def finished_after(jobs: Sequence[Planned], cores: int, gpus: int, memory: float) -> float:
    """Seconds until all jobs are finished, if each starts as soon as it fits, the most critical seconds first.

    A job that needs more cores or memory than there are gets all of them; memory in bytes.
    """
    preceding = predecessors(jobs)
    urgency = _critical_seconds(jobs, preceding)
    needs = [(min(p.job.threads, cores), min(int(p.gpu), gpus), min(p.cost.memory, memory)) for p in jobs]
    free = [float(cores), float(gpus), memory]
    waiting = [set(b) for b in preceding]
    ready = [(-urgency[i], i) for i in range(len(jobs)) if not waiting[i]]
    heapq.heapify(ready)
    followers: list[list[int]] = [[] for _ in jobs]
    for position, earlier in enumerate(preceding):
        for b in earlier:
            followers[b].append(position)
    running: list[tuple[float, int]] = []
    now = 0.0
    while ready or running:
        held_back = []
        while ready:
            entry = heapq.heappop(ready)
            need = needs[entry[1]]
            if all(want <= have for want, have in zip(need, free, strict=True)):
                free = [have - want for want, have in zip(need, free, strict=True)]
                heapq.heappush(running, (now + jobs[entry[1]].cost.seconds, entry[1]))
            else:
                held_back.append(entry)
        now, finished = heapq.heappop(running)
        free = [have + want for want, have in zip(needs[finished], free, strict=True)]
        for position in followers[finished]:
            waiting[position].discard(finished)
            if not waiting[position]:
                held_back.append((-urgency[position], position))
        ready = held_back
        heapq.heapify(ready)
    return now


def _critical_seconds(jobs: Sequence[Planned], preceding: Sequence[set[int]]) -> list[float]:
    """Critical seconds of each job: its own, and those of the longest chain of jobs that wait for it."""
    seconds = [planned.cost.seconds for planned in jobs]
    for position in reversed(_in_order(preceding)):
        for b in preceding[position]:
            seconds[b] = max(seconds[b], jobs[b].cost.seconds + seconds[position])
    return seconds


def _in_order(preceding: Sequence[set[int]]) -> list[int]:
    """Topological order: positions such that each follows its predecessors."""
    order, visited = [], set()
    for start in range(len(preceding)):
        stack = [start]
        while stack:
            position = stack[-1]
            pending = [b for b in preceding[position] if b not in visited]
            if position in visited:
                stack.pop()
            elif pending:
                stack += pending
            else:
                visited.add(position)
                order.append(position)
                stack.pop()
    return order
