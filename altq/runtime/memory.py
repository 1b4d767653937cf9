"""Main memory that this process may still take: what the machine has available, and what its control groups leave."""

from collections.abc import Iterator
from pathlib import Path

import psutil

GROUPS_OF_PROCESS = Path("/proc/self/cgroup")
CONTROL_GROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes; schedulers bound a job's memory by a control group, of either version."""
    return min([psutil.virtual_memory().available, *_left_in_control_groups()])


def _left_in_control_groups() -> Iterator[int]:
    """Bytes that each group which this process is in, and each one above it, leaves; a group without a limit has none."""
    lines = GROUPS_OF_PROCESS.read_text().splitlines() if GROUPS_OF_PROCESS.is_file() else []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if not controllers:  # version 2
            root, limit, used, idle = CONTROL_GROUPS, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, idle = CONTROL_GROUPS / "memory", "total_inactive_file"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = root / place.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root) and (folder / limit).is_file():
                if (most := (folder / limit).read_text().strip()) == "max":
                    continue
                statistics = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
                # The system takes pages of files back before it lets an allocation fail.
                taken = int((folder / used).read_text()) - int(statistics.get(idle, 0))
                yield max(0, int(most) - taken)
