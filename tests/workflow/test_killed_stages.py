"""kill -9 at a random moment of each stage that takes long, and the same command again: the files of a run in one go."""

import os
import random
import signal
import time

import pytest
from stages_for_tests import STAGES, Stages

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stages(smoke, project, tmp_path_factory):
    return Stages(smoke, project, tmp_path_factory.mktemp("killed"))


@pytest.mark.parametrize("seed", range(20))
def test_a_killed_stage_ends_as_if_it_had_not_been(stages, seed):
    stage, where = STAGES[seed % len(STAGES)], f"killed{seed}"
    expected, seconds = stages.straight(stage)
    process = stages.start(stage, where)
    time.sleep(random.Random(seed).uniform(0.2, 1.0) * seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for name, content in stages.written(stage, where).items():
        # What has its final name is whole, or is what a stage goes on from.
        assert name not in expected or name.endswith("index.json") or content == expected[name], name
    assert stages.start(stage, where).wait() == 0
    assert {name: c for name, c in stages.written(stage, where).items() if not name.endswith(".partial")} == expected


@pytest.mark.parametrize("stage", ["states", "calibrate", "calibrate-end-to-end", "assemble"])
def test_sigterm_stops_where_a_unit_ends(stages, stage):
    where = "asked"
    expected, _ = stages.straight(stage)
    process = stages.start(stage, where)
    while not stages.written(stage, where) and process.poll() is None:
        time.sleep(0.01)
    asked = time.monotonic()
    process.terminate()
    assert process.wait() == 143
    assert time.monotonic() - asked < 10
    kept = stages.written(stage, where)
    assert kept and not [name for name in kept if name.endswith(".partial")]
    assert kept.keys() != expected.keys()
    assert stages.start(stage, where).wait() == 0
    assert stages.written(stage, where) == expected
