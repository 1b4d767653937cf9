"""kill -9 in the middle of calibration, run again: it goes on where it was, to the same bits."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

BANK = "results/bank/made/W3A3K2V2/seed0/affine"
STEPS = 40
NUM_SUBLAYERS = 8


@pytest.mark.slow
def test_a_killed_calibration_goes_on_to_the_same_bits(smoke, project, tmp_path, snakemake, altq):
    folder = tmp_path / "run"
    shutil.copytree(smoke.folder, folder)
    bank = folder / BANK
    shutil.rmtree(bank)
    config = yaml.safe_load((project / "configs" / "smoke.yaml").read_text())
    config["recipe"]["steps"] = STEPS  # long enough to be killed in the middle
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(config))
    arguments = ["--snakefile", project / "Snakefile", "--configfile", file, "--directory", folder, "--cores", "1"]

    command = [sys.executable, "-m", "snakemake", *map(str, arguments), f"{BANK}/index.json"]
    process = subprocess.Popen(
        command, cwd=project, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while len(entries(bank)) < 3:
            assert process.poll() is None and time.monotonic() < deadline, "calibration ended before it could be killed"
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    killed = {path: path.stat().st_mtime_ns for path in entries(bank)}
    assert 3 <= len(killed) < NUM_SUBLAYERS and not (bank / "index.json").exists()

    assert snakemake("--configfile", file, "--unlock", folder=folder).returncode == 0
    again = snakemake("--configfile", file, "--cores", "1", f"{BANK}/index.json", folder=folder)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {path: path.stat().st_mtime_ns for path in killed} == killed, "a finished entry was made again"
    log = (folder / "results/logs/calibrate/made/W3A3K2V2/seed0/affine.log").read_text()
    assert len(re.findall(r"^block \d (?:attention|ffn), affine at ", log, re.MULTILINE)) == NUM_SUBLAYERS - len(killed)

    straight = altq(
        *("calibrate", "--model", "results/models/made", "--states", "results/states/made/seed0", "--threads", 1),
        *("--setting", "W3A3K2V2", "--kind", "affine", "--seed", 0, "--steps", STEPS),
        *("--output", tmp_path / "straight"),
        folder=folder,
    )
    assert straight.returncode == 0, straight.stderr
    assert len(entries(bank)) == NUM_SUBLAYERS
    for path in entries(bank):
        assert path.read_bytes() == (tmp_path / "straight" / path.name).read_bytes(), path.name
    assert (bank / "index.json").read_bytes() == (tmp_path / "straight" / "index.json").read_bytes()


def entries(bank):
    return sorted(bank.glob("sublayer_*.safetensors"))
