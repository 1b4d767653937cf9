"""The plan of an experiment: a row for each stage, the critical path, and when all is done."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from altq.resources.dry_run import Job
from altq.resources.machine import gpu_assumptions
from altq.resources.needs import Needs
from altq.resources.schedule import Planned, critical_path, depths, finished_after

COLUMNS = (
    "stage",
    "jobs",
    "threads",
    "minutes each",
    "hours in all",
    "memory GB",
    "GPU GB",
    "disk GB",
    "PFLOP",
    "TB moved",
)
ON_PROCESSORS = len(COLUMNS) - 2
"""Columns of a plan without GPUs, where operations and bytes are not shown."""


@dataclass(frozen=True)
class StagePlan:
    """All jobs of a stage: minutes of the shortest and the longest, hours of all one after the other, bytes at most.

    operations, moved: of the longest job on a GPU, see `Cost`.
    """

    stage: str
    jobs: int
    threads: int
    least_minutes: float
    most_minutes: float
    hours: float
    memory: float
    gpu_memory: float
    disk: float
    operations: float
    moved: float


def plan_jobs(needs: Needs, jobs: Sequence[Job]) -> list[Planned]:
    """Every job with its cost."""
    return [Planned(job, needs.cost(job.rule, job.wildcards, job.threads), needs.on_gpu(job.rule)) for job in jobs]


def stage_plans(jobs: Sequence[Planned]) -> list[StagePlan]:
    """Sum up the jobs of each stage, in the order in which stages can begin."""
    depth = depths(jobs)
    deepest: dict[str, int] = {}
    for planned, steps in zip(jobs, depth, strict=True):
        deepest[planned.job.rule] = max(steps, deepest.get(planned.job.rule, 0))
    order = sorted(deepest, key=lambda rule: (deepest[rule], rule))
    of_stage = groupby(sorted(jobs, key=lambda p: order.index(p.job.rule)), key=lambda p: p.job.rule)
    return [_row(stage, list(members)) for stage, members in of_stage]


def _row(stage: str, members: Sequence[Planned]) -> StagePlan:
    seconds = [planned.cost.seconds for planned in members]
    return StagePlan(
        stage=stage,
        jobs=len(members),
        threads=max(planned.job.threads for planned in members),
        least_minutes=min(seconds) / 60,
        most_minutes=max(seconds) / 60,
        hours=sum(seconds) / 3600,
        memory=max(planned.cost.memory for planned in members),
        gpu_memory=max(planned.cost.gpu_memory for planned in members),
        disk=sum(planned.cost.disk for planned in members),
        operations=max(planned.cost.operations for planned in members),
        moved=max(planned.cost.moved for planned in members),
    )


def to_text(needs: Needs, jobs: Sequence[Planned], cores: int, gpus: int, memory: float, gpu_memory: float) -> str:
    """The plan as it is printed: models, the table, the critical path, the end, and what does not fit."""
    stages = stage_plans(jobs)
    rows = [row[: None if gpus else ON_PROCESSORS] for row in (COLUMNS, *map(_cells, stages))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        f"{name}: {s.num_weights / 1e9:.2f} billion weights (shape: {s.origin})" for name, s in needs.sizes.items()
    ]
    lines.append("")
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    path = critical_path(jobs)
    on_path = sum(jobs[position].cost.seconds for position in path)
    steps = " > ".join(f"{jobs[p].job.rule} ({_minutes(jobs[p].cost.seconds / 60)})" for p in path)
    machine = f"{cores} cores" + (f" and {gpus} GPU{'s' if gpus > 1 else ''}" if gpus else "")
    lines += [
        "",
        f"{len(jobs)} jobs, {sum(stage.disk for stage in stages) / 1e9:.1f} GB of disk.",
        f"Critical path, {_hours(on_path)}, minutes each: {steps}",
        f"On {machine} with {memory / 1e9:.0f} GB of memory: {_hours(finished_after(jobs, cores, gpus=gpus, memory=memory))}.",
        *([gpu_assumptions()] if gpus else []),
        *_warnings(stages, memory, gpu_memory if gpus else 0.0),
    ]
    return "\n".join(lines) + "\n"


def _cells(stage: StagePlan) -> tuple[str, ...]:
    least, most = _minutes(stage.least_minutes), _minutes(stage.most_minutes)
    gpu = f"{stage.gpu_memory / 1e9:.1f}" if stage.gpu_memory else ""
    return (
        stage.stage,
        str(stage.jobs),
        str(stage.threads),
        least if least == most else f"{least} to {most}",
        f"{stage.hours:.1f}" if stage.hours >= 0.05 else "0",
        f"{stage.memory / 1e9:.1f}",
        gpu,
        f"{stage.disk / 1e9:.1f}" if stage.disk >= 5e7 else "0",
        f"{stage.operations / 1e15:.3g}" if stage.operations else "",
        f"{stage.moved / 1e12:.3g}" if stage.moved else "",
    )


def _minutes(minutes: float) -> str:
    return f"{minutes:.1f}" if minutes < 9.95 else f"{minutes:,.0f}"


def _hours(seconds: float) -> str:
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 2 * 86400 else f"{seconds / 86400:.1f} days"


def _warnings(stages: Sequence[StagePlan], memory: float, gpu_memory: float) -> list[str]:
    lines = [
        f"{stage.stage} needs {stage.memory / 1e9:.0f} GB of memory for a job, and there are {memory / 1e9:.0f}."
        for stage in stages
        if stage.memory > memory
    ]
    return lines + [
        f"{stage.stage} needs {stage.gpu_memory / 1e9:.0f} GB on its GPU, which has {gpu_memory / 1e9:.0f}."
        for stage in stages
        if gpu_memory and stage.gpu_memory > gpu_memory
    ]
