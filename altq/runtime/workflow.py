"""The workflow as a program: where its files are, and Snakemake at work on a configuration, one run in a folder.

A run has a session of its own, so that a stop reaches Snakemake and its jobs together, and holds the lock of its folder
for as long as Snakemake lives, also where who started it is gone.
"""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from altq.runtime.code_hash import ROOT
from altq.runtime.stopping import stop_if_asked

SNAKEFILE = "Snakefile"
CONFIGURATION = "config.yaml"
"""The default experiment, and the name of those that are made of it."""
LOCK = ".altq.lock"
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_STOP = 60
"""Snakemake waits for jobs that put themselves away, and deletes what they left unfinished."""


def workflow_folder() -> Path:
    """The folder of the Snakefile, its rules and the default configuration: a checkout's, or an installed package's data.

    ValueError where neither is there.
    """
    if (ROOT.parent / SNAKEFILE).is_file():
        return ROOT.parent
    try:
        installed = [file for file in files("altq") or [] if file.name == SNAKEFILE]
    except PackageNotFoundError:
        installed = []
    if installed and (path := Path(installed[0].locate())).is_file():
        return path.parent.resolve()
    raise ValueError(f"{ROOT.parent / SNAKEFILE} is missing, and the package has none; install altq again")


def snakemake_command(config: Path, folder: Path, *, cores: int, resources: Mapping[str, int]) -> list[str]:
    """The command line of Snakemake for a configuration in a working directory; flags and `-- TARGET` may follow.

    resources: what all jobs together may use. The lock of the folder is not Snakemake's own, which outlives it.
    """
    command = [sys.executable, "-P", "-m", "snakemake", "--snakefile", str(workflow_folder() / SNAKEFILE)]
    command += ["--configfile", str(config.absolute()), "--directory", str(folder.absolute())]
    command += ["--workflow-profile", "none", "--nolock", "--rerun-incomplete"]
    command += ["--cores", str(cores)]
    limits = [f"{name}={limit}" for name, limit in resources.items()]
    return command + (["--resources", *limits] if limits else [])


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the lock of a folder, and yield the file that holds it; ValueError where another run has it."""
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(file, 32).decode().strip()
            raise ValueError(
                f"{folder} is in use: a run is at work there (process {owner}); wait for it, or stop it with "
                f"`kill -INT -- -{owner}`"
            ) from None
        if any((folder / ".snakemake" / "locks").glob("*")):
            raise ValueError(
                f"{folder} is in use: Snakemake has locked it; wait for that run, or `snakemake --unlock` where it was "
                "killed"
            )
        yield file
    finally:
        os.close(file)


def run_snakemake(command: Sequence[str], lock: int, messages: Path) -> int:
    """Run Snakemake to its end and return its exit status; a stop of this process stops it and its jobs first.

    It prints a line for each job (rules/snakemake_logger_plugin_altq); what jobs say goes to the file `messages`. lock:
    of `locked`, which it holds, too.
    """
    rules = workflow_folder() / "rules"
    path = os.pathsep.join([str(rules), *filter(None, [os.environ.get("PYTHONPATH")])])
    messages.parent.mkdir(parents=True, exist_ok=True)
    with open(messages, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [*command], cwd=workflow_folder(), env=os.environ | {"PYTHONPATH": path}, stderr=file, pass_fds=[lock],
            start_new_session=True, preexec_fn=_heed_interrupts,  # noqa: PLW1509  (no thread of this process runs by then)
        )  # fmt: skip
    os.pwrite(lock, f"{process.pid}\n".encode(), 0)
    os.ftruncate(lock, len(f"{process.pid}\n"))
    try:
        while True:
            try:
                return process.wait(SECONDS_BETWEEN_LOOKS)
            except subprocess.TimeoutExpired:
                stop_if_asked()
    finally:
        if process.poll() is None:
            _stop(process)


def _heed_interrupts() -> None:
    """In the child: what a shell starts in the background ignores SIGINT, and hands that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _stop(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(SECONDS_TO_STOP)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
