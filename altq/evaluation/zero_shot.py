"""Zero-shot accuracy on a task: the harness's requests scored by our models, and judged by the harness."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import torch
from lm_eval.api.metrics import mean_stderr

from altq.checkpoint.quantized_model import load_model
from altq.evaluation.harness import load_task
from altq.evaluation.likelihood import Likelihood, plan_batches, score_batch
from altq.evaluation.requests import TaskRequests
from altq.runtime.device import CPU
from altq.runtime.progress import progress
from altq.runtime.resume import Scratch

METRICS = ("acc", "acc_norm")


class Accuracy(NamedTuple):
    """Share of right answers, and its standard error as the harness estimates it."""

    value: float
    stderr: float


def score(folder: str | Path, asked: TaskRequests, scratch: Scratch, device: torch.device = CPU) -> list[Likelihood]:
    """The likelihood of every request under a model or checkpoint; goes on after the batches that are in `scratch`."""
    model = load_model(folder, device)
    batches = plan_batches(asked.requests, asked.max_length)
    found: dict[int, Likelihood] = {}
    for number, batch in enumerate(progress(batches, "zero-shot")):
        if number == len(scratch.units):
            scored = score_batch(model, batch)
            scratch.add([[index, *likelihood] for index, likelihood in scored.items()])
        found |= {index: Likelihood(*likelihood) for index, *likelihood in scratch.units[number]}
    return [found[index] for index in range(len(asked.requests))]


def judge(
    name: str, items_folder: str | Path, asked: TaskRequests, likelihoods: Sequence[Likelihood]
) -> tuple[pyarrow.Table, dict[str, Accuracy]]:
    """Judge each item by the harness's metrics: a table of items, and the accuracies over all of them.

    The table has a row for each item: item (its row in the data), log_likelihoods and is_greedy of its requests, acc
    and, where the task has it, acc_norm (0 or 1), is_truncated.
    """
    task = load_task(name, items_folder, asked.items)
    of_item: dict[int, list[Likelihood]] = {item: [] for item in asked.items}
    for request, likelihood in zip(asked.requests, likelihoods, strict=True):
        of_item[request.item].append(likelihood)
    truncated = asked.truncated_items
    rows: list[dict[str, Any]] = []
    for (item, found), doc in zip(of_item.items(), task.eval_docs, strict=True):
        judged = task.process_results(doc, found)
        rows.append(
            {
                "item": item,
                "log_likelihoods": [likelihood.log_likelihood for likelihood in found],
                "is_greedy": [likelihood.is_greedy for likelihood in found],
                **{metric: int(judged[metric]) for metric in METRICS if metric in judged},
                "is_truncated": item in truncated,
            }
        )
    table = pyarrow.Table.from_pylist(rows)
    values = {metric: table[metric].to_pylist() for metric in METRICS if metric in table.column_names}
    return table, {metric: Accuracy(sum(v) / len(v), mean_stderr(v)) for metric, v in values.items()}
