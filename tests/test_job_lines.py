"""What `make table2` shows of a run: a line for each job, failures with their reason, and nothing else."""

import logging
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake_interface_logger_plugins.common import LogEvent


@pytest.fixture
def handler(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project / "rules"))
    from snakemake_logger_plugin_altq import LogHandler

    handler = LogHandler(SimpleNamespace(), None)
    yield handler
    handler.close()


def say(handler, event=None, message=None, level=logging.INFO, **values):
    record = logging.LogRecord("snakemake", level, "", 0, message, None, None)
    record.__dict__.update(values | ({"event": event} if event else {}))
    handler.emit(record)


def started(handler, jobid, rule, **wildcards):
    say(handler, LogEvent.JOB_INFO, jobid=jobid, rule_name=rule, wildcards=wildcards)


def test_a_job_is_one_line_when_it_ends(handler, capsys):
    say(handler, LogEvent.RUN_INFO, stats={"states": 1, "assemble": 1, "total": 2})
    started(handler, 4, "states", model="smollm2", seed="0")
    started(handler, 7, "assemble", model="smollm2", method="adaptive")
    say(handler, message="Select jobs to execute...")
    say(handler, LogEvent.JOB_FINISHED, job_id=7)
    say(handler, LogEvent.PROGRESS, done=1, total=2)
    say(handler, LogEvent.JOB_FINISHED, job_id=4)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 jobs" and len(lines) == 3
    assert re.fullmatch(r"\d\d:\d\d:\d\d  assemble smollm2 adaptive, 0 s", lines[1])
    assert re.fullmatch(r"\d\d:\d\d:\d\d  states smollm2 0, 0 s", lines[2])


def test_a_job_that_failed_shows_its_command_and_the_end_of_its_log(handler, capsys, tmp_path):
    log = tmp_path / "states.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)) + "altq: the disk is full\n")
    started(handler, 4, "states", model="smollm2")
    failure = {"rule_name": "states", "rule_msg": None, "jobid": 4, "output": ["results/states.json"]}
    failure |= {"shellcmd": "python3 -m altq states", "log": [str(log), str(tmp_path / "missing.log")]}
    say(handler, LogEvent.JOB_ERROR, level=logging.ERROR, **failure)
    said = capsys.readouterr().out
    assert "FAILED: states, results/states.json" in said and "python3 -m altq states" in said
    assert f"the end of {log}" in said and "altq: the disk is full" in said
    assert "line 99" in said and "line 0\n" not in said and "missing.log" not in said


@pytest.mark.parametrize(
    ("message", "level"),
    [
        ("the configuration cannot be used", logging.ERROR),
        ("a file is old", logging.WARNING),
        (NOTHING_TO_BE_DONE_MSG, 20),
    ],
)
def test_what_snakemake_has_to_say_itself_is_shown(handler, capsys, message, level):
    say(handler, message=message, level=level)
    assert capsys.readouterr().out == message + "\n"


def test_a_checkpoint_that_adds_jobs_moves_the_end_of_the_bar(handler, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    say(handler, LogEvent.RUN_INFO, stats={"total": 2})
    say(handler, LogEvent.PROGRESS, done=1, total=2)
    say(handler, LogEvent.PROGRESS, done=3, total=9)
    assert (handler.bar.n, handler.bar.total) == (3, 9)


@pytest.mark.slow
def test_snakemake_finds_the_plugin(project, tmp_path):
    target = "results/selections/made/affine.json"
    options = (
        "--configfile",
        project / "configs" / "smoke.yaml",
        "--directory",
        tmp_path,
        "--cores",
        "1",
        "--",
        target,
    )
    command = [
        sys.executable,
        "-P",
        "-m",
        "snakemake",
        "--logger",
        "altq",
        "--snakefile",
        project / "Snakefile",
        *options,
    ]
    paths = os.pathsep.join(map(str, (project / "rules", project)))
    ended = subprocess.run(
        [*map(str, command)],
        cwd=project,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    total, line = ended.stdout.splitlines()
    assert total == "1 jobs" and re.search(r"  select made affine, \d+ s$", line)
