"""Faults around the workflow: two in one folder, a stale lock, a damaged bank, a clock that was set back."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow

BANK = "results/bank/made/W3A3K2V2/seed0/affine"
INDEX = f"{BANK}/index.json"
CHECKPOINT = "results/checkpoints/made/affine/W3A3K2V2/gptq/seed0/quantization.json"


class Workflow:
    """The bank of the smoke experiment made anew from its finished inputs, in a folder of its own."""

    def __init__(self, smoke, project, folder, snakemake):
        self.folder, self._project, self._snakemake = folder, project, snakemake
        shutil.copytree(smoke.folder, folder, dirs_exist_ok=True)
        for made in ("bank", "checkpoints", "perplexity"):
            shutil.rmtree(folder / "results" / made)

    def start(self):
        """The same in the background, working by the time that this returns."""
        words = ["--snakefile", "Snakefile", "--configfile", "configs/smoke.yaml", "--directory", self.folder]
        running = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *words, "--cores", "1", INDEX],
            cwd=self._project, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while not (self.folder / "results/bank").exists():
            assert running.poll() is None
            time.sleep(0.05)
        return running

    def run(self, *arguments, target=INDEX):
        smoke = self._project / "configs" / "smoke.yaml"
        done = self._snakemake("--configfile", smoke, "--cores", "1", *arguments, target, folder=self.folder)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def workflow(smoke, project, tmp_path, snakemake):
    return Workflow(smoke, project, tmp_path, snakemake)


def test_two_workflows_in_one_folder(workflow):
    workflow.run("--dry-run")  # starts what jobs are forked from, which takes longer than the first one's job
    first = workflow.start()
    os.killpg(first.pid, signal.SIGSTOP)  # so that it is not done before the second has begun
    status, said = workflow.run()
    os.killpg(first.pid, signal.SIGCONT)
    assert status == 1 and "cannot be locked" in said
    assert first.wait() == 0, "the first is not disturbed"


def test_a_stale_lock(workflow):
    killed = workflow.start()
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    status, said = workflow.run()
    assert status == 1 and "cannot be locked" in said and "--unlock" in said
    assert workflow.run("--unlock")[0] == 0
    assert workflow.run()[0] == 0


def test_an_entry_of_a_finished_bank_that_is_cut_off(workflow, smoke):
    shutil.copytree(smoke.folder / "results/bank", workflow.folder / "results/bank")
    entry = workflow.folder / BANK / "sublayer_005.safetensors"
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-10])
    status, said = workflow.run(target=CHECKPOINT)
    assert status == 1 and f"delete {INDEX} and run again" in said
    (workflow.folder / INDEX).unlink()
    status, said = workflow.run(target=CHECKPOINT)
    assert status == 0 and entry.read_bytes() == whole
    assert "sublayer_005.safetensors cannot be read" in said and said.count(", affine at W3A3K2V2: loss") == 1


def test_a_clock_that_was_set_back(workflow, smoke):
    tomorrow = time.time() + 86400
    for path in (workflow.folder / "results").rglob("*"):
        os.utime(path, (tomorrow, tomorrow))
    status, said = workflow.run()
    assert status == 1 and "clock skew" in said, "Snakemake would run the job again and again"
    assert workflow.run("--touch", "--forceall")[0] == 0
    status, said = workflow.run()
    assert status == 0, said
    assert "calibrating affine at W3A3K2V2: 100%" in said
    assert ", affine at W3A3K2V2: loss" not in said, "no sublayer is calibrated again"
    assert (workflow.folder / INDEX).read_bytes() == (smoke.folder / INDEX).read_bytes()
