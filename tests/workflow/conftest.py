"""The smoke experiment, run once for all tests that look at real results."""

from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock


class Smoke(NamedTuple):
    """A finished run of configs/smoke.yaml: where, and what it said."""

    folder: Path
    said: str


@pytest.fixture(scope="session")
def smoke(project, tmp_path_factory, snakemake, worker_id) -> Smoke:
    """The same for all processes that run tests: the first that comes runs it, and none changes it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "smoke"
    with FileLock(folder.with_suffix(".lock")):
        said = folder.with_suffix(".txt")
        if not said.exists():
            folder.mkdir(exist_ok=True)
            result = snakemake("--configfile", project / "configs" / "smoke.yaml", "--cores", "2", folder=folder)
            assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
            said.write_text(result.stdout + result.stderr)
    return Smoke(folder, said.read_text())
