"""No module is imported from the folder that a command, a job or a child runs in: results and downloads lie there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TRAPS = ("numpy", "yaml", "pydantic", "torch", "pip", "snakemake", "argparse", "kernels")


@pytest.fixture
def trapped(tmp_path):
    """A folder of modules that say so when they are run."""
    for name in TRAPS:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\n")
    yield tmp_path
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


@pytest.mark.parametrize("words", [("-P", "-m", "altq"), ("-m", "altq")])
def test_the_module(run_python, trapped, words):
    ended = run_python(*words, "schema", folder=trapped)
    assert ended.returncode == 0 and "properties" in ended.stdout, ended.stderr


def test_the_installed_command(run_python, trapped, tmp_path_factory):
    script = tmp_path_factory.mktemp("bin") / "altq"
    script.write_text("import sys\nfrom altq.__main__ import main\nsys.exit(main())\n")
    ended = run_python(script, "schema", folder=trapped)
    assert ended.returncode == 0, ended.stderr


def test_pip_as_altq_calls_it(run_python, trapped):
    code = (
        "from altq.sources import wheel; from altq.experiment.sources import Wheel; from pathlib import Path\n"
        "run = wheel.subprocess.run\n"
        "def asked_for_its_version(command, **rest):\n"
        "    return run([*command[:command.index('pip') + 1], '--version'], **rest)\n"
        "wheel.subprocess.run = asked_for_its_version\n"
        "try: wheel._download(Wheel.model_construct(package='a', version='1', member='m', sha256='s'), Path('.'), Path('.'))\n"
        "except ConnectionError: print('called')\n"
    )
    assert run_python("-P", "-c", code, folder=trapped).stdout == "called\n"


def test_children_of_a_command_inherit_it(run_python, trapped, project):
    code = (
        "import subprocess, sys; from altq import __main__, cli\n"
        "cli.main = lambda: subprocess.run([sys.executable, '-c', 'import yaml'], check=True).returncode\n"
        "sys.exit(__main__.main())\n"
    )
    assert run_python("-P", "-c", code, folder=trapped).returncode == 0


def test_every_python_that_is_started_has_it(project):
    """In the rules, and in the code, where a list of words begins with the interpreter."""
    rules = "".join(path.read_text() for path in [project / "Snakefile", *(project / "rules").glob("*.smk")])
    started = re.findall(r"python3? (\S+)", rules)
    assert started and set(started) == {"-P"}
    for path in [*(project / "altq").rglob("*.py"), *(project / "kernels").rglob("*.py")]:
        assert not re.search(r"\[sys\.executable, (?!\"-P\")", path.read_text()), path


def test_jobs_of_the_workflow(project, trapped):
    """Snakemake itself is started in another folder, as `snakemake --directory` has it."""
    target = "results/selections/made/affine.json"
    options = ("--configfile", project / "configs" / "smoke.yaml", "--directory", trapped, "--cores", "1", "--", target)
    command = [sys.executable, "-P", "-m", "snakemake", "--snakefile", project / "Snakefile", *options]
    environment = os.environ | {"PYTHONPATH": str(project)}
    ended = subprocess.run(
        [*map(str, command)], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert (Path(trapped) / target).is_file()
