"""The smoke experiment, run once for all tests that look at real results."""

from pathlib import Path
from typing import NamedTuple

import pytest


class Smoke(NamedTuple):
    """A finished run of configs/smoke.yaml: where, and what it said."""

    folder: Path
    said: str


@pytest.fixture(scope="session")
def smoke(project, tmp_path_factory, snakemake) -> Smoke:
    folder = tmp_path_factory.mktemp("smoke")
    result = snakemake("--configfile", project / "configs" / "smoke.yaml", "--cores", "2", folder=folder)
    said = result.stdout + result.stderr
    assert result.returncode == 0, said[-5000:]
    return Smoke(folder, said)
