"""Check that this machine has what a run needs, and say what is missing and the command that mends it.

Reads the versions that pyproject.toml pins and, with a configuration, what remains of its experiment in --directory.
Writes nothing; prints versions, compiler, GPUs, caches, SLURM, disk, memory and the hub, which may be out of reach.
--block runs a block of every fetched model forward and backward, before a long run finds out. Exits with 1 where
something that is required is missing.

  altq doctor
  altq doctor configs/paper.yaml --directory runs/paper --block
"""

import argparse
from pathlib import Path


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, nargs="?", help="configuration file (YAML)")
    parser.add_argument("--directory", type=Path, default=Path(), help="where the experiment runs (default: here)")
    parser.add_argument("--block", action="store_true", help="run a block of each model forward and backward")


def run(arguments: argparse.Namespace) -> None:
    from altq.commands.config import read_experiment
    from altq.resources.doctor import MISSING, check_block, check_experiment, check_machine, to_text

    if arguments.block and not arguments.file:
        raise ValueError("--block needs a configuration, which names the models")
    checks = list(check_machine())
    if arguments.file:
        experiment = read_experiment(arguments.file)
        checks += check_experiment(experiment, arguments.file, arguments.directory)
        if arguments.block:
            length = experiment.calibration.window_length
            folders = [arguments.directory / "results" / "models" / name for name in experiment.models]
            checks += [check_block(folder, length) for folder in folders]
    print(to_text(checks), end="")
    missing = [check.what for check in checks if check.state == MISSING]
    if missing:
        raise ValueError(f"required and not there: {', '.join(missing)}")
