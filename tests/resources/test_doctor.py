"""The doctor sees what is missing and names the command that mends it."""

from importlib.metadata import PackageNotFoundError

import pytest
import yaml

from altq.cli import main
from altq.experiment.experiment import Experiment
from altq.resources import doctor
from altq.resources.doctor import (
    MISSING,
    NOTE,
    OK,
    Check,
    check_block,
    check_cache,
    check_hub,
    check_slurm,
    check_versions,
)


def test_this_environment_has_what_is_pinned():
    assert check_versions().state == OK


REQUIRED = ["torch>=2.13.0,<3", "geoopt>=0.5.1,<1", "triton>=3.9.0,<4; sys_platform == 'beos'"]


@pytest.mark.parametrize(
    ("geoopt", "state", "said"),
    [
        ("0.4", MISSING, "geoopt<1,>=0.5.1 is 0.4"),
        ("1.0.dev1", MISSING, "geoopt<1,>=0.5.1 is 1.0.dev1"),
        (None, MISSING, "geoopt<1,>=0.5.1 is not installed"),
        ("0.6", NOTE, "geoopt 0.5.1 is 0.6: results may differ in their last digits"),
        ("0.5.1", OK, "2 as pinned"),
    ],
)
def test_versions_are_held_against_the_ranges_and_the_pins(monkeypatch, geoopt, state, said):
    def version(package):
        if package == "geoopt" and geoopt is None:
            raise PackageNotFoundError(package)
        return geoopt if package == "geoopt" else "2.13.0+cpu"

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(doctor, "_dependencies", lambda project: REQUIRED)
    remedy = "" if state == OK else "pip install -c constraints.txt -e ."
    assert check_versions() == Check("packages", state, said, remedy)


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("ALTQ_CACHE", str(tmp_path / "cache"))
    assert check_cache().state == OK
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert check_cache().state == MISSING and "ALTQ_CACHE" in check_cache().remedy


@pytest.mark.parametrize(("code", "profile"), [(0, "slurm"), (1, "slurm-no-accounting")])
def test_the_profile_of_this_cluster(monkeypatch, tmp_path, code, profile):
    for name, script in (("sbatch", "exit 0"), ("sacct", f"exit {code}")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    assert check_slurm() == Check("SLURM", OK, f"snakemake --workflow-profile profiles/{profile}")
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert check_slurm().state == MISSING and "'.[slurm]'" in check_slurm().remedy


def test_offline_is_no_error(project, tmp_path, monkeypatch):
    experiment = Experiment.parse(yaml.safe_load((project / "configs" / "paper.yaml").read_text()))

    def unreachable(*arguments, **options):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(doctor.socket, "create_connection", unreachable)
    (check,) = check_hub(experiment, tmp_path)
    assert check.state == NOTE and "llama3-70b" in check.finding and "wikitext2" in check.finding
    smoke = Experiment.parse(yaml.safe_load((project / "configs" / "smoke.yaml").read_text()))
    assert [check.state for check in check_hub(smoke, tmp_path)] == [OK]


def test_a_block_runs_forward_and_backward(tmp_path):
    from models_for_tests import save_tiny_model

    assert check_block(tmp_path / "absent", 8).state == NOTE
    folder = save_tiny_model("qwen3", tmp_path / "qwen3")
    (folder / "source.json").write_text("{}")
    check = check_block(folder, 8)
    assert check.state == OK and "forward and backward" in check.finding


def test_what_is_missing_fails(monkeypatch, capsys):
    checks = [Check("a", OK, "here"), Check("b", MISSING, "not here", "apt-get install b")]
    monkeypatch.setattr(doctor, "check_machine", lambda: iter(checks))
    assert main(["doctor"]) == 1
    said = capsys.readouterr()
    assert "-> apt-get install b" in said.out and "required and not there: b" in said.err
    assert main(["doctor", "--block"]) == 1
    assert "needs a configuration" in capsys.readouterr().err
