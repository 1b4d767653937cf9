"""Check a configuration file and print it complete, every default filled in.

All problems are reported in one message. Nothing is fetched and nothing is computed.

  altq config config.yaml
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from altq.experiment.experiment import Experiment


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="configuration file (YAML)")


def run(arguments: argparse.Namespace) -> None:
    import yaml

    experiment = read_experiment(arguments.file)
    print(yaml.safe_dump(experiment.model_dump(mode="json", exclude_none=True), sort_keys=False, width=118), end="")


def read_experiment(file: Path) -> "Experiment":
    """The checked experiment of a configuration file; ValueError with every problem."""
    import yaml

    from altq.experiment.experiment import Experiment

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no keys; see config.yaml for what it needs")
    return Experiment.parse(content)
