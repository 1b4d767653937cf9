"""The smoke experiment, run once for all tests that look at real results."""

import resource
from pathlib import Path
from typing import NamedTuple

import pytest


class Smoke(NamedTuple):
    """A finished run of configs/smoke.yaml: where, what it said, and its seconds of processor time."""

    folder: Path
    said: str
    processor_seconds: float


@pytest.fixture(scope="session")
def smoke(project, tmp_path_factory, snakemake) -> Smoke:
    folder = tmp_path_factory.mktemp("smoke")
    began = _processor_seconds_of_children()
    result = snakemake("--configfile", project / "configs" / "smoke.yaml", "--cores", "2", folder=folder)
    said = result.stdout + result.stderr
    assert result.returncode == 0, said[-5000:]
    return Smoke(folder, said, _processor_seconds_of_children() - began)


def _processor_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
