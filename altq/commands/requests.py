"""Write what a zero-shot task asks of a model, in its tokens.

Reads a model folder (its tokenizer) and the folder that `altq fetch-task` wrote. Writes a .parquet file with a row for
each request (item, context, continuation) and, beside it, a .json that says how it was made. --limit draws so many
items at random, of each part of the set as many as its share asks for: the same for every model and method.

  altq requests --model results/models/smollm2 --task piqa --items results/tasks/piqa --limit 300 --seed 0 \\
      --output results/requests/smollm2/piqa.parquet
"""

import argparse

from altq.commands.command import add_items, add_model, add_output, add_task
from altq.runtime.provenance import provenance


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_task(parser)
    add_items(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="number of items; all without it")
    parser.add_argument("--seed", type=int, required=True, metavar="N", help="seed by which items are drawn")
    add_output(parser, ".parquet file")


def run(arguments: argparse.Namespace) -> None:
    if arguments.limit is not None and arguments.limit < 2:
        raise ValueError(f"--limit {arguments.limit} has no standard error; give at least 2")
    import numpy as np

    from altq.evaluation.requests import make_requests
    from altq.runtime.files import sha256, write_json

    generator = np.random.Generator(np.random.PCG64(arguments.seed))
    made = make_requests(arguments.task, arguments.items, arguments.model, arguments.limit, generator)
    made.write(arguments.output)
    options = {"task": arguments.task, "limit": arguments.limit, "seed": arguments.seed}
    record = {
        **options,
        "model": arguments.model.resolve().name,
        "num_items": len(made.items),
        "num_requests": len(made.requests),
        "num_available": made.num_available,
        "num_truncated": len(made.truncated_items),
        "task_version": made.task_version,
        "sha256": sha256(arguments.output),
        "provenance": provenance("requests", options, [arguments.model, arguments.items]),
    }
    write_json(arguments.output.with_suffix(".json"), record)
