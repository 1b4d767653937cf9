"""Stages that are stopped by kill -9 at a random moment, SIGTERM or a full disk, and run again: the files of one go."""

import random
import shutil
import subprocess
import time

import pytest
from stages_for_tests import STAGES, Stages, ended

pytestmark = pytest.mark.slow

NAMESPACE = ("unshare", "--map-root-user", "--mount")


def _can_mount() -> bool:
    command = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


needs_a_disk = pytest.mark.skipif(not _can_mount(), reason="a disk of one's own needs mount namespaces (unshare)")


@pytest.fixture(scope="module")
def stages(smoke, project, tmp_path_factory):
    return Stages(smoke, project, tmp_path_factory.mktemp("stopped"))


@pytest.mark.parametrize("seed", range(20))
def test_a_killed_stage_ends_as_if_it_had_not_been(stages, seed):
    stage, where = STAGES[seed % len(STAGES)], f"killed{seed}"
    expected, seconds = stages.straight(stage)
    process = stages.start(stage, where)
    time.sleep(random.Random(seed).uniform(0.2, 1.0) * seconds)
    process.kill()
    process.join()
    for name, content in stages.written(stage, where).items():
        # What has its final name is whole, or is what a stage goes on from.
        assert name not in expected or name.endswith("index.json") or content == expected[name], name
    assert ended(stages.start(stage, where)) == 0
    assert {name: c for name, c in stages.written(stage, where).items() if not name.endswith(".partial")} == expected


@pytest.mark.parametrize("stage", ["states", "calibrate", "calibrate-end-to-end", "assemble"])
def test_sigterm_stops_where_a_unit_ends(stages, stage):
    where = "asked"
    expected, _ = stages.straight(stage)
    process = stages.start(stage, where)
    while not any(path.suffix != ".partial" for path in (stages.folder / where / stage).glob("*.*")):
        time.sleep(0.01)
    asked = time.monotonic()
    process.terminate()
    assert ended(process) == 143
    assert time.monotonic() - asked < 10
    kept = stages.written(stage, where)
    assert kept and not [name for name in kept if name.endswith(".partial")]
    assert kept.keys() != expected.keys()
    assert ended(stages.start(stage, where)) == 0
    assert stages.written(stage, where) == expected


def on_a_disk(stages, stage, size, script):
    """Run a script of which "$@" is the command of a stage, whose folder `disk/<stage>` is a disk of `size` bytes."""
    mounted = f"mkdir -p disk/{stage} && mount -t tmpfs -o size={size} tmpfs disk/{stage}"
    command = [*NAMESPACE, "sh", "-c", f"{mounted} && {script}", "sh", *stages.command(stage, "disk")]
    return subprocess.run(
        command, cwd=stages.folder, env=stages.environment, capture_output=True, text=True, check=False
    )


def message(done):
    """The one message of the first run, which failed."""
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    (said,) = (line for line in done.stderr.splitlines() if line.startswith("altq: ") and "warning" not in line)
    return said


@needs_a_disk
@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "fetch-corpus"])
def test_a_disk_that_fills_up(stages, stage):
    expected, _ = stages.straight(stage)
    half = sum(map(len, expected.values())) // 2
    again = f'mount -o remount,size=1g disk/{stage}; "$@" && mkdir -p kept && cp -r disk/{stage} kept/'
    done = on_a_disk(stages, stage, half, f'{{ "$@"; echo status $?; find disk -name "*.partial"; {again}; }}')
    assert "o space left" in message(done) or "no disk space" in message(done)
    assert done.stdout == "status 1\n", "no partial file is left"
    assert stages.written(stage, "kept") == expected


@needs_a_disk
def test_a_disk_that_cannot_be_written(stages):
    done = on_a_disk(stages, "calibrate", 10**6, 'mount -o remount,ro disk/calibrate; "$@"; test $? = 1')
    assert "Read-only file system" in message(done) and "disk/calibrate" in message(done)
