"""A part of the smoke experiment through a real SLURM: submitted, cancelled, killed, and finished all the same.

Needs root and Debian packages (tests/workflow/slurm/start.sh says why where it cannot run), and the extra `slurm`. Not
part of the default run: `pytest -m slurm`.
"""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slurm

SETTING = "W3A3K2V2"
TOKENS = "results/tokens/made/pydoc/calibration-seed0.npy"
HEURISTIC = "results/selections/made/heuristic.json"


def bank(name):
    return f"results/bank/made/{SETTING}/seed0/{name}/index.json"


class Cluster:
    """A SLURM of this machine, and the smoke experiment in a folder that it works in."""

    def __init__(self, project: Path, folder: Path, configuration: Path) -> None:
        self.project, self.folder = project, folder
        self.environment = os.environ | {"SLURM_CONF": str(configuration), "PYTHONPATH": str(project)}

    def command(self, *arguments: str) -> list[str]:
        """Snakemake through the profile; ended after ten minutes whatever happens."""
        profile = ["--workflow-profile", self.project / "profiles" / "slurm-no-accounting"]
        places = ["--snakefile", self.project / "Snakefile", "--directory", self.folder]
        experiment = ["--configfile", self.project / "configs" / "smoke.yaml"]
        sooner = ["--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "5"]
        snakemake = [sys.executable, "-m", "snakemake", *places, *experiment, *profile, *sooner, *arguments]
        return ["timeout", "-k", "5", "600", *map(str, snakemake)]

    def start(self, *arguments: str) -> subprocess.Popen:
        """The same in the background, in a process group of its own."""
        return subprocess.Popen(
            self.command(*arguments), cwd=self.project, env=self.environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *arguments: str) -> str:
        """Run to the end; what it says."""
        result = subprocess.run(
            self.command(*arguments),
            cwd=self.project,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
        return result.stdout + result.stderr

    def slurm(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=20, check=True
        ).stdout  # fmt: skip

    def running(self) -> list[str]:
        """The ids of jobs that have begun and not ended."""
        return self.slurm("squeue", "--noheader", "--states", "R", "--format", "%A").split()

    def wait_for(self, ready, seconds: float = 300):
        """What `ready` gives as soon as it gives something."""
        deadline = time.monotonic() + seconds
        while not (found := ready()):
            assert time.monotonic() < deadline, self.slurm("squeue")
            time.sleep(0.1)
        return found

    def job(self, job_id: str) -> dict[str, str]:
        """What SLURM knows of a job."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.slurm("scontrol", "show", "job", job_id)))

    def exists(self, path: str) -> bool:
        return (self.folder / path).is_file()


def submitted(said: str) -> list[str]:
    """Ids of the SLURM jobs that Snakemake says it submitted."""
    return re.findall(r"SLURM jobid (\d+)", said)


@pytest.fixture(scope="module")
def cluster(project, tmp_path_factory):
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("the SLURM executor is not installed: pip install -c constraints.txt -e '.[slurm]'")
    scripts, state = project / "tests" / "workflow" / "slurm", tmp_path_factory.mktemp("slurm")
    started = subprocess.run(
        ["timeout", "-k", "5", "300", scripts / "start.sh", state], capture_output=True, text=True, check=False
    )  # fmt: skip
    if started.returncode == 77:
        pytest.skip(started.stdout.strip())
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        yield Cluster(project, tmp_path_factory.mktemp("run"), state / "slurm.conf")
    finally:
        subprocess.run(["timeout", "-k", "5", "60", scripts / "stop.sh", state], check=False)


def test_jobs_are_submitted_with_what_they_need(cluster):
    said = cluster.run(TOKENS, HEURISTIC)
    ids = submitted(said)
    assert len(ids) == 4, said  # fetch_model, fetch_corpus, calibration_tokens, statistics; selections are made here
    for job_id in ids:
        job = cluster.job(job_id)
        assert job["JobState"] == "COMPLETED" and job["NumCPUs"] == "1"
        assert re.search(r"mem=\d+M", job["TRES"]) and job["TimeLimit"] >= "00:15:00"
    assert cluster.exists(TOKENS) and cluster.exists(HEURISTIC)
    assert "Nothing to be done" in cluster.run(TOKENS, HEURISTIC)


def test_a_job_that_is_cancelled_is_submitted_again_with_more_memory(cluster):
    snakemake = cluster.start(bank("quarot"))
    cancelled = cluster.wait_for(cluster.running)[0]
    cluster.slurm("scancel", cancelled)
    said, _ = snakemake.communicate()
    assert snakemake.returncode == 0, said[-5000:]
    ids = submitted(said)
    assert len(ids) == 3 and ids[0] == cancelled, said  # states, states again, calibrate_end_to_end
    first, again, end_to_end = map(cluster.job, ids)
    assert (first["JobState"], again["JobState"], end_to_end["JobState"]) == ("CANCELLED", "COMPLETED", "COMPLETED")
    memory = [int(re.search(r"mem=(\d+)M", job["TRES"])[1]) for job in (first, again)]
    assert 1.4 * memory[0] < memory[1] < 1.8 * memory[0]
    assert end_to_end["TresPerJob"].endswith("gpu:1") and "TresPerJob" not in again
    assert cluster.exists(bank("quarot"))


def test_snakemake_that_is_killed_goes_on(cluster):
    snakemake = cluster.start(bank("smoothquant"))
    left_alone = cluster.wait_for(cluster.running)[0]
    os.killpg(snakemake.pid, signal.SIGKILL)
    snakemake.communicate()
    cluster.wait_for(lambda: cluster.job(left_alone)["JobState"] == "COMPLETED")
    cluster.run("--unlock")
    said = cluster.run(bank("smoothquant"))
    # SLURM's job goes on without the Snakemake that submitted it, and what it finished is kept.
    assert len(submitted(said)) <= 1 and cluster.exists(bank("smoothquant"))
    assert "Nothing to be done" in cluster.run(bank("smoothquant"))


def test_shards_are_an_array(cluster):
    shards = ("--config", "calibration={shards: 3}", "--slurm-array-jobs", "calibrate_shard")
    said = cluster.run(bank("affine"), *shards)
    (array,) = re.findall(r"Submitted array job .* SLURM job ID (\d+)", said)
    tasks = cluster.slurm("scontrol", "show", "job", array)
    assert sorted(re.findall(r"ArrayTaskId=(\d+)", tasks)) == ["1", "2", "3"]
    assert tasks.count("JobState=COMPLETED") == 3
    parts = [f"shards/{number}-of-3.json" for number in (1, 2, 3)]
    assert all(cluster.exists(bank("affine").replace("index.json", part)) for part in parts)
    assert cluster.exists(bank("affine"))
