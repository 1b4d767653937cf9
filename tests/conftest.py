"""What all tests share: the project's root, one thread for each process, and Snakemake as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Before torch is imported anywhere: tests are small, and two processes often share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before Triton is imported anywhere: without an NVIDIA GPU its kernels are tested in its interpreter.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

PROJECT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long tests of the workflow first. A SLURM is started only where it is asked for: `pytest -m slurm`."""
    if "slurm" not in config.option.markexpr:
        starting = [item for item in items if item.get_closest_marker("slurm")]
        config.hook.pytest_deselected(items=starting)
        items[:] = [item for item in items if item not in starting]
    items.sort(key=lambda item: item.path.parent.name != "workflow")


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the project."""
    return PROJECT


@pytest.fixture(scope="session")
def run_python():
    """Run `python ARGUMENTS` in `folder` with the altq of `root`; returns the finished process with its text."""

    def run(*arguments: str | Path, folder: Path, root: Path = PROJECT) -> subprocess.CompletedProcess:
        environment = os.environ | {"PYTHONPATH": str(root)}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def altq(run_python):
    """Run `altq ARGUMENTS` in `folder`."""

    def run(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess:
        return run_python("-P", "-m", "altq", *arguments, folder=folder)

    return run


@pytest.fixture(scope="session")
def preloaded(tmp_path_factory):
    """A Python whose jobs of the workflow are forked from one that has imported much."""
    from preloaded_for_tests import make_environment, start_server

    environment = tmp_path_factory.mktemp("preloaded")
    python = make_environment(environment)
    server = start_server(environment)
    yield python
    server.terminate()


@pytest.fixture(scope="session")
def snakemake(preloaded):
    """Run the workflow of `root` with results in `folder`."""

    def run(*arguments: str | Path, folder: Path, root: Path = PROJECT) -> subprocess.CompletedProcess:
        command = [preloaded, "-m", "snakemake", "--snakefile", root / "Snakefile", "--directory", folder, *arguments]
        variables = os.environ | {"PYTHONPATH": str(root)}
        return subprocess.run(
            [*map(str, command)], cwd=root, env=variables, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(scope="module")
def workspaces(tmp_path_factory):
    """Every family with its states, made when first asked for."""
    from models_for_tests import Workspace  # heavy: most tests do without it

    made = {}

    def workspace(name):
        if name not in made:
            made[name] = Workspace(name, tmp_path_factory.mktemp(name))
        return made[name]

    return workspace


@pytest.fixture
def full_products(monkeypatch):
    """No reduced-precision products, which would hide errors of 1e-4."""
    monkeypatch.setattr("altq.runtime.precision._has_fast_bfloat16", lambda: False)


@pytest.fixture
def double_transforms(monkeypatch):
    """Transforms stay in float64, in which their starts are computed."""
    from altq.transforms.transform import Transform

    monkeypatch.setattr(Transform, "float", lambda self: self)
