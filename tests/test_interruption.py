"""Ctrl-C ends every command with a message and status 130, whenever it comes, and never with a traceback."""

import os
import random
import signal
import subprocess
import sys
import time
import tomllib

import pytest

INTERRUPT_ON_IMPORT = """
import importlib.abc, os, signal, sys

class Interrupts(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            {how}

sys.meta_path.insert(0, Interrupts())
"""
AT_ONCE = "os.kill(os.getpid(), signal.SIGINT)"
AS_ANOTHER_ERROR = """
            try:
                os.kill(os.getpid(), signal.SIGINT)
                for _ in range(10**6): pass
            except KeyboardInterrupt:
                raise {error}("initialisation of a library failed")
"""


def heed() -> None:
    """In a child, before it begins: SIGINT as a terminal has it, also where these tests run in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ignore() -> None:
    """The same, as in what a shell starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture
def interrupted(project, tmp_path):
    """Run `altq ARGUMENTS`, with SIGINT where a module is first imported."""

    def run(module, *arguments, how=AT_ONCE, entry=("-P", "-m", "altq"), before=heed):
        (tmp_path / "sitecustomize.py").write_text(INTERRUPT_ON_IMPORT.format(module=module, how=how))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(project)))}
        command = [sys.executable, *entry, *map(str, arguments)]
        options = {"cwd": tmp_path, "env": environment, "preexec_fn": before}
        return subprocess.run(command, **options, capture_output=True, text=True, check=False)

    return run


TOKENS = ("tokens", "--model", "m", "--corpus", "c", "--split", "test", "--window-length", "8", "--output", "o.npy")


@pytest.mark.parametrize(
    "module", ["altq.cli", "argparse", "altq.commands.tokens", "pydantic", "altq.sources.tokens", "numpy"]
)
def test_while_a_module_is_imported(interrupted, module):
    ended = interrupted(module, *TOKENS)
    assert ended.returncode == 130 and ended.stderr.startswith("altq: stopped"), ended.stderr
    assert "Traceback" not in ended.stderr and ended.stderr.count("\n") == 1


@pytest.mark.parametrize("error", ["ImportError", "SystemError", "OSError"])
def test_a_library_that_makes_another_error_of_it(interrupted, error):
    ended = interrupted("numpy", *TOKENS, how=AS_ANOTHER_ERROR.format(error=error))
    assert (ended.returncode, ended.stderr) == (130, "altq: stopped; run again to go on from there\n")


def test_the_installed_command_begins_where_the_module_does(project, interrupted, tmp_path):
    scripts = tomllib.loads((project / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts["altq"].split(":")
    script = tmp_path / "altq-script"
    script.write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    ended = interrupted("altq.cli", *TOKENS, entry=(script,))
    assert (ended.returncode, ended.stderr) == (130, "altq: stopped\n")


def test_what_is_ignored_stays_ignored(interrupted):
    ended = interrupted("argparse", "schema", before=ignore)
    assert ended.returncode == 0 and "properties" in ended.stdout


@pytest.mark.parametrize("seed", range(6))
def test_at_a_random_moment(project, seed):
    # From its own first line on: what Python does before is Python's.
    code = (
        "import sys; sys.argv[0] = 'altq'; from altq.__main__ import main; print('begun', flush=True); sys.exit(main())"
    )
    environment = os.environ | {"PYTHONPATH": str(project)}
    running = subprocess.Popen(
        [sys.executable, "-P", "-c", code, "select", "--policy", "affine"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed,
    )  # fmt: skip
    assert running.stdout.readline() == "begun\n"
    time.sleep(0.02 + 0.25 * random.Random(seed).random())
    running.send_signal(signal.SIGINT)
    _, said = running.communicate()
    # It may have ended before, for want of --output.
    stopped = said in ("altq: stopped\n", "altq: stopped; run again to go on from there\n")
    assert (running.returncode == 130 and stopped) or (running.returncode == 2 and "usage" in said)
