"""Jobs of a workflow, with their inputs and outputs, as Snakemake's own dry run lists them."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from altq.runtime.workflow import snakemake_command, workflow_folder

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
    command = snakemake_command(config, folder, cores=cores, resources={"gpu": gpus} if gpus else {})
    command += ["--dry-run", *([] if remaining else ["--forceall"]), "--", *targets]
    run = subprocess.run(command, cwd=workflow_folder(), capture_output=True, text=True, check=False)
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
