"""The workflow as a program: where its files are, one run in a folder, and that a stop reaches all of it."""

import os
import subprocess
import sys
import threading
import time
from importlib.metadata import PackagePath

import pytest

from altq.runtime import stopping, workflow
from altq.runtime.workflow import locked, run_snakemake, workflow_folder

SAYS = "import sys; import snakemake_logger_plugin_altq; sys.stderr.write('what a job says'); sys.exit(3)"
JOB = "import sys, time, pathlib; pathlib.Path(sys.argv[1]).write_text('at work'); time.sleep(60)"


def test_a_checkout_is_its_own_workflow(project):
    assert workflow_folder() == project


def test_an_installed_package_has_its_workflow_among_its_data(tmp_path, monkeypatch):
    monkeypatch.setattr(workflow, "ROOT", tmp_path / "site-packages" / "altq")
    with pytest.raises(ValueError, match="the package has none; install altq again"):
        monkeypatch.setattr(workflow, "files", lambda name: [])
        workflow_folder()
    installed = tmp_path / "share" / "altq" / "Snakefile"
    installed.parent.mkdir(parents=True)
    installed.write_text("")
    path = PackagePath("../share/altq/Snakefile")
    path.dist = type("Distribution", (), {"locate_file": lambda self, name: tmp_path / "site-packages" / name})()
    monkeypatch.setattr(workflow, "files", lambda name: [path])
    (tmp_path / "site-packages").mkdir()
    assert workflow_folder() == installed.parent


def test_one_run_at_a_time_works_in_a_folder(tmp_path):
    with locked(tmp_path) as lock:
        os.pwrite(lock, b"4242\n", 0)
        with pytest.raises(ValueError, match=r"is in use: a run is at work there \(process 4242\).*kill -INT -- -4242"):
            locked(tmp_path).__enter__()
    with locked(tmp_path):
        pass
    (tmp_path / ".snakemake" / "locks").mkdir(parents=True)
    (tmp_path / ".snakemake" / "locks" / "0.input.lock").write_text("")
    with pytest.raises(ValueError, match="is in use: Snakemake has locked it"):
        locked(tmp_path).__enter__()


def test_what_runs_on_alone_keeps_the_folder(tmp_path):
    """As after kill -9 of the one that started it."""
    with locked(tmp_path) as lock:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock])
    try:
        with pytest.raises(ValueError, match="is in use: a run is at work"):
            locked(tmp_path).__enter__()
    finally:
        child.communicate(b"\n")
    with locked(tmp_path):
        pass


def test_the_status_is_that_of_snakemake(tmp_path):
    with locked(tmp_path) as lock:
        assert run_snakemake([sys.executable, "-c", SAYS], lock, tmp_path / "logs" / "said.txt") == 3
    assert (tmp_path / "logs" / "said.txt").read_text() == "what a job says"


def test_a_stop_ends_snakemake_and_its_jobs(tmp_path):
    """By SIGTERM: a process that starts another, as Snakemake does, and both are gone."""
    mark = tmp_path / "mark"
    command = [
        sys.executable,
        "-c",
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {JOB!r}, {str(mark)!r}])",
    ]

    def stop():
        while not mark.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), 15)

    threading.Thread(target=stop).start()
    with locked(tmp_path) as lock, stopping.signals_heeded(), pytest.raises(stopping.Terminated):
        run_snakemake(command, lock, tmp_path / "said.txt")
    group = int((tmp_path / ".altq.lock").read_text())
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("a process of the run is left")
