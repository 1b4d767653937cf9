"""Memory that a process may still take, as the machine and its control groups have it."""

import psutil
import pytest

from altq.runtime import memory as module
from altq.runtime.memory import available_memory

VERSIONS = {
    1: (
        "4:memory:/job/step\n0::/\n",
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
    2: ("0::/job/step\n", "", "memory.max", "memory.current", "inactive_file"),
}


@pytest.fixture(params=VERSIONS)
def group(request, tmp_path, monkeypatch):
    """A function that describes a group of this process: its place, and what it has."""
    line, root, limit_name, used_name, idle_name = VERSIONS[request.param]
    (tmp_path / "cgroup").write_text(line)
    monkeypatch.setattr(module, "GROUPS_OF_PROCESS", tmp_path / "cgroup")
    monkeypatch.setattr(module, "CONTROL_GROUPS", tmp_path / "fs")

    def describe(place, limit, used, idle):
        folder = tmp_path / "fs" / root / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit_name).write_text(f"{limit}\n")
        (folder / used_name).write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\n{idle_name} {idle}\n")

    return describe


def test_without_a_limit_it_is_what_the_machine_has(group):
    group("job", "max", 5, 0)
    assert available_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_the_group_that_leaves_least_counts_and_pages_of_files_are_free(group):
    group("job/step", 5_000_000, 4_000_000, 500_000)
    assert available_memory() == 1_500_000
    group("job", 3_000_000, 2_500_000, 100_000)
    assert available_memory() == 600_000
    group("", 10**15, 0, 0)
    assert available_memory() == 600_000


def test_a_group_that_is_full_leaves_nothing(group):
    group("job/step", 1000, 2000, 0)
    assert available_memory() == 0


def test_where_there_are_no_groups_it_is_what_the_machine_has(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GROUPS_OF_PROCESS", tmp_path / "none")
    assert available_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.2)
