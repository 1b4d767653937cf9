"""Commands that write the requests of a zero-shot task, and measure accuracy on them."""

import argparse
import logging
from pathlib import Path

import numpy as np
import pyarrow.parquet

from altq.checkpoint.format import labels_of
from altq.commands.command import add_folder, add_model, add_output, add_seed, add_task
from altq.commands.device import add_device
from altq.evaluation.requests import TaskRequests, make_requests
from altq.evaluation.zero_shot import judge, score
from altq.runtime.files import atomic, read_json, sha256, write_json
from altq.runtime.gpu import open_device
from altq.runtime.lineage import check_lineage, run_fingerprint
from altq.runtime.provenance import provenance
from altq.runtime.resume import Scratch

log = logging.getLogger(__name__)


def _add_items(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--items", type=Path, required=True, metavar="FOLDER", help="folder that `altq fetch-task` wrote"
    )


def requests_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_task(parser)
    _add_items(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="number of items; all without it")
    add_seed(parser, "the draw of items")
    add_output(parser, ".parquet file", beside=(".json",))


def requests(arguments: argparse.Namespace) -> None:
    """Write what a zero-shot task asks of a model, in its tokens.

    Reads a model folder (its tokenizer) and the folder that `altq fetch-task` wrote. Writes a .parquet file with a row
    for each request (item, context, continuation) and, beside it, a .json that says how it was made. --limit draws so
    many items at random, of each part of the set as many as its share asks for: the same for every model and method.

      altq requests --model results/models/smollm2 --task piqa --items results/tasks/piqa --limit 300 --seed 0 \\
          --output results/requests/smollm2/piqa.parquet
    """
    if arguments.limit is not None and arguments.limit < 2:
        raise ValueError(f"--limit {arguments.limit} has no standard error; give at least 2")
    generator = np.random.Generator(np.random.PCG64(arguments.seed))
    asked = make_requests(
        arguments.task, arguments.items, model_folder=arguments.model, limit=arguments.limit, rng=generator
    )
    asked.write(arguments.output)
    if asked.truncated_items:
        log.warning(
            "%d of %d items of %s are longer than the model's context of %d tokens and lose their first tokens",
            len(asked.truncated_items), len(asked.items), arguments.task, asked.max_length,
        )  # fmt: skip
    options = {"task": arguments.task, "limit": arguments.limit, "seed": arguments.seed}
    record = {
        **options,
        "model": arguments.model.resolve().name,
        "num_items": len(asked.items),
        "num_requests": len(asked.requests),
        "num_available": asked.num_available,
        "num_truncated": len(asked.truncated_items),
        "task_version": asked.task_version,
        "sha256": sha256(arguments.output),
        "provenance": provenance("requests", options, [arguments.model, arguments.items]),
    }
    write_json(arguments.output.with_suffix(".json"), record)


def zero_shot_flags(parser: argparse.ArgumentParser) -> None:
    add_folder(parser)
    add_task(parser)
    _add_items(parser)
    parser.add_argument("--requests", type=Path, required=True, metavar="FILE", help="requests (.parquet)")
    add_device(parser)
    add_output(parser, ".parquet file", beside=(".json",))


def zero_shot(arguments: argparse.Namespace) -> None:
    """Measure the accuracy of a model or checkpoint on a zero-shot task of lm-evaluation-harness.

    Reads a model folder or a checkpoint folder, the requests that `altq requests` wrote and the items that they are of.
    Writes a .parquet file with a row for each item (log-likelihoods, acc and acc_norm) and, last, a .json beside it:
    what was evaluated, as the checkpoint says it, accuracies with standard errors, and how all of it was made. A run
    that was stopped goes on at the batch of items where it stopped.

      altq zero-shot --folder results/checkpoints/smollm2/affine/W4A4K4V4/gptq/seed0 --task piqa \\
          --items results/tasks/piqa --requests results/requests/smollm2/piqa.parquet --output affine-piqa.parquet
    """
    labels, device = labels_of(arguments.folder), open_device(arguments.device, arguments.gpu_memory)
    asked, drawn = TaskRequests.read(arguments.requests), read_json(arguments.requests.with_suffix(".json"))
    inputs = [arguments.folder, arguments.requests]
    check_lineage([*inputs, arguments.items])
    kept = ("model", "task", "num_items", "num_available", "num_truncated", "task_version")
    fingerprint = run_fingerprint("zero-shot", labels, [*inputs, arguments.items])
    with Scratch.beside(arguments.output, fingerprint, device.type) as scratch:
        likelihoods = score(arguments.folder, asked, scratch, device)
        items, accuracies = judge(arguments.task, arguments.items, asked=asked, likelihoods=likelihoods)
        with atomic(arguments.output) as partial:
            pyarrow.parquet.write_table(items, partial)
        result = {
            **labels,
            **{name: drawn[name] for name in kept},
            **{name: accuracy._asdict() for name, accuracy in accuracies.items()},
            "items_sha256": sha256(arguments.output),
            "devices": scratch.devices,
            "provenance": provenance("zero-shot", labels, inputs, device),
        }
        write_json(arguments.output.with_suffix(".json"), result)
