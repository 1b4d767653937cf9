"""Jobs of a workflow, with their inputs and outputs, as Snakemake's own dry run lists them."""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from altq.runtime.code_hash import ROOT

JOB = re.compile(r"^(?:local)?(?:rule|checkpoint) (\w+):$")
FIELD = re.compile(r"^    (input|output|wildcards|threads): (.*)$")


@dataclass(frozen=True)
class Job:
    """A job: its rule, wildcards, threads, and the files that it reads and writes."""

    rule: str
    wildcards: dict[str, str]
    threads: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def list_jobs(
    config: Path, folder: Path, targets: Sequence[str], *, cores: int, gpus: int, remaining: bool
) -> list[Job]:
    """The jobs of a configuration in the working directory `folder`, all or only those that remain to be done.

    ValueError where Snakemake refuses the configuration or a target, with its message.
    """
    snakefile = ROOT.parent / "Snakefile"
    if not snakefile.is_file():
        raise ValueError(
            f"{snakefile} is missing: run altq from a checkout of the project, not from an installed wheel"
        )
    command = [sys.executable, "-P", "-m", "snakemake", "--snakefile", snakefile, "--configfile", config.absolute()]
    command += ["--directory", folder.absolute(), "--workflow-profile", "none", "--dry-run", "--nolock"]
    command += ["--cores", str(cores), *(["--resources", f"gpu={gpus}"] if gpus else [])]
    command += [] if remaining else ["--forceall"]
    run = subprocess.run(
        [*map(str, command), "--", *targets], cwd=ROOT.parent, capture_output=True, text=True, check=False
    )
    output = run.stdout + run.stderr
    if run.returncode:
        raise ValueError(f"snakemake --dry-run says:\n{_error_message(output)}")
    return parse_jobs(output)


def parse_jobs(text: str) -> list[Job]:
    """The jobs in the output of a dry run."""
    jobs: list[Job] = []
    rule: str | None = None
    fields: dict[str, str] = {}
    for line in [*text.splitlines(), ""]:
        if match := JOB.match(line):
            rule, fields = match[1], {}
        elif rule and (match := FIELD.match(line)):
            fields[match[1]] = match[2]
        elif rule and not line.startswith("    "):
            jobs.append(_job(rule, fields))
            rule = None
    return jobs


def _job(rule: str, fields: dict[str, str]) -> Job:
    pairs = (pair.split("=", 1) for pair in fields.get("wildcards", "").split(", ") if pair)
    files = {name: tuple(filter(None, fields.get(name, "").split(", "))) for name in ("input", "output")}
    return Job(
        rule=rule,
        wildcards=dict(pairs),
        threads=int(fields.get("threads", 1)),
        inputs=files["input"],
        outputs=files["output"],
    )


def _error_message(output: str) -> str:
    """Error message in Snakemake's output, without its header."""
    lines = [line for line in output.splitlines() if line.strip()]
    start = next((i for i, line in enumerate(lines) if "Error" in line or "Exception" in line), max(0, len(lines) - 10))
    return "\n".join(lines[start : start + 30])
