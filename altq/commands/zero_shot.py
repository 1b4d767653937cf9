"""Measure the accuracy of a model or checkpoint on a zero-shot task of lm-evaluation-harness.

Reads a model folder or a checkpoint folder, the requests that `altq requests` wrote and the items that they are of.
Writes a .parquet file with a row for each item (log-likelihoods, acc and acc_norm) and, last, a .json beside it:
accuracies with standard errors, and how all of it was made. A run that was stopped goes on at the batch of items where
it stopped. --method, --setting, --weights and --seed say what is evaluated; they are written, not acted on.

  altq zero-shot --folder results/checkpoints/smollm2/affine/W4A4K4V4/gptq/seed0 --method affine --setting W4A4K4V4 \\
      --weights gptq --seed 0 --task piqa --items results/tasks/piqa --requests results/requests/smollm2/piqa.parquet \\
      --output affine-piqa.parquet
"""

import argparse
from pathlib import Path

from altq.commands.command import add_evaluated, add_items, add_output, add_task, read_evaluated
from altq.runtime.provenance import identity, provenance


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_evaluated(parser)
    add_task(parser)
    add_items(parser)
    parser.add_argument("--requests", type=Path, required=True, metavar="FILE", help="requests (.parquet)")
    add_output(parser, ".parquet file")


def run(arguments: argparse.Namespace) -> None:
    of = read_evaluated(arguments)
    import pyarrow.parquet

    from altq.evaluation.journal import Journal
    from altq.evaluation.requests import TaskRequests
    from altq.evaluation.zero_shot import judge, score
    from altq.runtime.files import atomic, read_json, sha256, write_json

    asked, drawn = TaskRequests.read(arguments.requests), read_json(arguments.requests.with_suffix(".json"))
    inputs = [arguments.folder, arguments.requests]
    journal = Journal(arguments.output.with_suffix(".journal.jsonl"), identity("zero-shot", of, inputs))
    items, accuracies = judge(arguments.task, arguments.items, asked, score(arguments.folder, asked, journal))
    with atomic(arguments.output) as partial:
        pyarrow.parquet.write_table(items, partial)
    result = {
        **of,
        **{
            name: drawn[name]
            for name in ("model", "task", "num_items", "num_available", "num_truncated", "task_version")
        },
        **{name: accuracy._asdict() for name, accuracy in accuracies.items()},
        "items_sha256": sha256(arguments.output),
        "provenance": provenance("zero-shot", of, inputs),
    }
    write_json(arguments.output.with_suffix(".json"), result)
    journal.remove()
