"""Commands that look at a configuration before anything runs: its check, its schema, its plan, this machine."""

import argparse
import os
from pathlib import Path

import yaml

from altq.experiment.experiment import Experiment
from altq.resources import checks
from altq.resources import doctor as machine_checks
from altq.resources.dry_run import list_jobs
from altq.resources.needs import Needs
from altq.resources.plan import plan_jobs, to_text
from altq.runtime.cores import usable_cores
from altq.runtime.documents import read_yaml


def config_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="configuration file (YAML)")


def config(arguments: argparse.Namespace) -> None:
    """Check a configuration file and print it complete, every default filled in.

    All problems are reported in one message. Nothing is fetched and nothing is computed.

      altq config config.yaml
    """
    content = read_experiment(arguments.file).model_dump(mode="json", exclude_none=True)
    print(yaml.safe_dump(content, sort_keys=False, width=118), end="")


def read_experiment(file: Path) -> Experiment:
    """Read and check the experiment of a configuration file; ValueError with every problem."""
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no keys; see config.yaml for what it needs")
    try:
        return Experiment.parse(content)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def schema_flags(parser: argparse.ArgumentParser) -> None:
    """The command takes no flags of its own."""


def schema(arguments: argparse.Namespace) -> None:
    """Print the schema of config.yaml: every key with its type, default and meaning.

    It is kept as rules/config.schema.yaml, for editors and readers; the workflow itself checks a configuration with the
    same definitions and more.

      altq schema > rules/config.schema.yaml
    """
    print(schema_text(), end="")


def schema_text() -> str:
    """The JSON schema of a configuration, as YAML."""
    return yaml.safe_dump(Experiment.model_json_schema(), sort_keys=False, allow_unicode=True, width=118)


def plan_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, nargs="?", default=Path("config.yaml"), help="configuration file (YAML)")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="files or rules to plan (default: all)")
    parser.add_argument("--directory", type=Path, default=Path(), help="where the experiment runs (default: here)")
    parser.add_argument("--remaining", action="store_true", help="only what is not done there yet")
    parser.add_argument("--cores", type=int, default=usable_cores(), metavar="N", help="cores (default: here)")
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs (default: 0)")
    parser.add_argument("--memory", type=float, metavar="GB", help="main memory of all jobs together (default: here)")
    parser.add_argument("--disk", type=float, metavar="GB", help="free disk there (default: that of --directory)")
    parser.add_argument("--gpu-memory", type=float, default=80, metavar="GB", help="of one GPU (default: 80)")


def plan(arguments: argparse.Namespace) -> None:
    """Print what an experiment will take before it runs: jobs, minutes, memory, disk and the critical path.

    Reads a configuration file; no weights are needed, only the shape of each model (from its config.json where it is
    fetched, or from `shape:` in the configuration). Jobs are those of Snakemake's dry run, all of them or, with
    --remaining, those that are left to do in --directory. Writes nothing. Times are of idle processors as fast as those
    of docs/scaling.md; with --gpus every numeric stage runs on one, and the plan ends with what its times rest on.

      altq plan config.yaml
      altq plan configs/paper.yaml --cores 128 --gpus 8 --memory 1000
      altq plan config.yaml results/table3.csv --directory runs/mine --remaining
    """
    if arguments.cores < 1 or arguments.gpus < 0:
        raise ValueError(f"--cores {arguments.cores} --gpus {arguments.gpus}: give 1 core or more, and 0 GPUs or more")
    experiment = read_experiment(arguments.file)
    memory = arguments.memory * 1e9 if arguments.memory else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = {"cores": arguments.cores, "gpus": arguments.gpus, "remaining": arguments.remaining}
    jobs = list_jobs(arguments.file, arguments.directory, arguments.targets, **limits)
    free_disk = None if arguments.disk is None else arguments.disk * 1e9
    needs = Needs(experiment, arguments.directory, gpus=arguments.gpus, free_disk=free_disk)
    planned = plan_jobs(needs, jobs)
    gpu_memory = arguments.gpu_memory * 1e9
    text = to_text(needs, planned, cores=arguments.cores, gpus=arguments.gpus, memory=memory, gpu_memory=gpu_memory)
    print(text, end="")


def doctor_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, nargs="?", help="configuration file (YAML)")
    parser.add_argument("--directory", type=Path, default=Path(), help="where the experiment runs (default: here)")
    parser.add_argument("--block", action="store_true", help="run a block of each model forward and backward")


def doctor(arguments: argparse.Namespace) -> None:
    """Check that this machine has what a run needs, and say what is missing and the command that mends it.

    Reads the versions that pyproject.toml pins and, with a configuration, what remains of its experiment in
    --directory. Writes nothing; prints versions, compiler, GPUs, caches, SLURM, disk, memory and the hub, which may be
    out of reach. --block runs a block of every fetched model forward and backward, before a long run finds out. Exits
    with 1 where something that is required is missing.

      altq doctor
      altq doctor configs/paper.yaml --directory runs/paper --block
    """
    if arguments.block and not arguments.file:
        raise ValueError("--block needs a configuration, which names the models")
    found = list(machine_checks.check_machine())
    if arguments.file:
        experiment = read_experiment(arguments.file)
        found += machine_checks.check_experiment(experiment, arguments.file, arguments.directory)
        if arguments.block:
            length = experiment.calibration.window_length
            folders = [arguments.directory / "results" / "models" / name for name in experiment.models]
            found += [machine_checks.check_block(folder, length) for folder in folders]
    print(checks.to_text(found), end="")
    missing = [check.name for check in found if check.state == checks.MISSING]
    if missing:
        raise ValueError(f"required and not there: {', '.join(missing)}")
