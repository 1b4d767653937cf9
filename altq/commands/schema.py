"""Print the schema of config.yaml: every key with its type, default and meaning.

It is kept as rules/config.schema.yaml, for editors and readers; the workflow itself checks a configuration with the
same definitions and more.

  altq schema > rules/config.schema.yaml
"""

import argparse


def add_flags(parser: argparse.ArgumentParser) -> None:
    del parser


def run(arguments: argparse.Namespace) -> None:
    del arguments
    print(schema(), end="")


def schema() -> str:
    """The JSON schema of a configuration, as YAML."""
    import yaml

    from altq.experiment.experiment import Experiment

    return yaml.safe_dump(Experiment.model_json_schema(), sort_keys=False, allow_unicode=True, width=118)
