"""Zero-shot results as `altq zero-shot` writes them."""

import json

import pandas

from altq.experiment.tasks import TASKS
from altq.runtime.files import sha256

MODEL = "tiny"


def write_accuracy(
    folder, method, task, right, *, right_norm=None, setting="W3A3K3V3", seed=0, weights="gptq", truncated=0
):
    """right: 0 or 1 for each item, by acc; right_norm by acc_norm, as right where absent and the task has one."""
    metrics = {"acc": right}
    if TASKS[task].metric == "acc_norm":
        metrics["acc_norm"] = right if right_norm is None else right_norm
    path = folder / f"{method}-{setting}-{seed}-{task}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pandas.DataFrame({"item": range(3, 3 + len(right)), **metrics}).to_parquet(path)
    shares = {name: sum(values) / len(values) for name, values in metrics.items()}
    result = {
        "setting": setting, "method": method, "model": MODEL, "weights": weights, "seed": seed, "task": task,
        "num_items": len(right), "num_available": 1000, "num_truncated": truncated, "task_version": 1.0,
        **{
            name: {"value": p, "stderr": (p * (1 - p) / (len(right) - 1)) ** 0.5} for name, p in shares.items()
        },
        "items_sha256": sha256(path),
    }  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps(result))
    return path.with_suffix(".json")


def write_all(folder, method, right, **where):
    """The same answers to every task."""
    return [write_accuracy(folder, method, task, right, **where) for task in TASKS]
