"""kill -9 in the middle of calibration, run again: it goes on where it was, to the same bits."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from altq.experiment.experiment import Experiment
from altq.runtime.flags import to_flags

pytestmark = pytest.mark.slow

SETTING = "W3A3K2V2"
NUM_SUBLAYERS = 8


class Calibration:
    """One bank of a copy of the smoke experiment, whose steps are enough to be killed in the middle."""

    def __init__(self, smoke, project: Path, folder: Path, snakemake, name: str, **sections: dict) -> None:
        self.project, self.folder, self.file, self._snakemake = project, folder / "run", folder / "more.yaml", snakemake
        shutil.copytree(smoke.folder, self.folder)
        self.config = yaml.safe_load((project / "configs" / "smoke.yaml").read_text())
        for section, changes in sections.items():
            self.config[section] |= changes
        self.file.write_text(yaml.safe_dump(self.config))
        self.name, self.bank = name, self.folder / f"results/bank/made/{SETTING}/seed0/{name}"
        shutil.rmtree(self.bank)

    def kill_when(self, ready) -> None:
        """Run the workflow up to the bank and kill all of it by SIGKILL as soon as `ready()`."""
        arguments = ["--snakefile", self.project / "Snakefile", "--configfile", self.file, "--directory", self.folder]
        process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *map(str, arguments), "--cores", "1", self._target()],
            cwd=self.project, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 180
            while not ready():
                assert process.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
                time.sleep(0.02)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert not (self.bank / "index.json").exists()

    def run_again(self, rule: str) -> str:
        """The same run once more, to its end: what its log says."""
        assert self._snakemake("--configfile", self.file, "--unlock", folder=self.folder).returncode == 0
        again = self._snakemake("--configfile", self.file, "--cores", "1", self._target(), folder=self.folder)
        assert again.returncode == 0, again.stdout + again.stderr
        return self.log(rule)

    def log(self, rule: str) -> str:
        path = self.folder / f"results/logs/{rule}/made/{SETTING}/seed0/{self.name}.log"
        return path.read_text() if path.is_file() else ""

    def is_as_if_never_killed(self, altq, *command: str) -> None:
        """Every file but the account of how long it took is that of a run in one go."""
        flags = shlex.split(to_flags(Experiment.parse(self.config).recipe_of(self.name)))
        places = ("--model", "results/models/made", "--states", "results/states/made/seed0", "--output", "straight")
        run = altq(*command, *places, "--threads", 1, "--setting", SETTING, "--seed", 0, *flags, folder=self.folder)
        assert run.returncode == 0, run.stderr
        straight = self.folder / "straight"
        names = {path.name for path in self.bank.iterdir()}
        assert names == {path.name for path in straight.iterdir()}
        for name in names - {"provenance.json"}:
            assert (self.bank / name).read_bytes() == (straight / name).read_bytes(), name

    def _target(self) -> str:
        return str(self.bank.relative_to(self.folder) / "index.json")


def test_a_killed_calibration_goes_on_at_its_sublayer(smoke, project, tmp_path, snakemake, altq):
    calibration = Calibration(smoke, project, tmp_path, snakemake, "affine", recipe={"steps": 40})

    def entries():
        return sorted(calibration.bank.glob("sublayer_*.safetensors"))

    calibration.kill_when(lambda: len(entries()) >= 3)
    killed = {path: path.stat().st_mtime_ns for path in entries()}
    assert len(killed) < NUM_SUBLAYERS
    log = calibration.run_again("calibrate")
    assert {path: path.stat().st_mtime_ns for path in killed} == killed, "a finished entry was made again"
    assert len(re.findall(r"^block \d (?:attention|ffn), affine at ", log, re.MULTILINE)) == NUM_SUBLAYERS - len(killed)
    assert len(entries()) == NUM_SUBLAYERS
    calibration.is_as_if_never_killed(altq, "calibrate", "--kind", "affine")


def test_a_killed_end_to_end_calibration_goes_on_at_its_step(smoke, project, tmp_path, snakemake, altq):
    recipe = {"steps": 30, "windows_per_step": 4}
    calibration = Calibration(smoke, project, tmp_path, snakemake, "ostquant", baselines={"ostquant": recipe})
    rule = "calibrate_end_to_end"
    (calibration.folder / f"results/logs/{rule}/made/{SETTING}/seed0/ostquant.log").unlink()

    def steps(log):
        return [int(step) for step in re.findall(r"^step (\d+) of 30: ", log, re.MULTILINE)]

    calibration.kill_when(lambda: 3 in steps(calibration.log(rule)))
    assert list((calibration.bank / "training.scratch").glob("training_*.pt"))
    log = calibration.run_again(rule)
    going_on = int(re.search(r"^going on after (\d+) finished units in ", log, re.MULTILINE)[1])
    assert going_on > 3 and steps(log) == list(range(going_on, 31))
    calibration.is_as_if_never_killed(altq, "calibrate-end-to-end")
