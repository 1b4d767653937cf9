"""lm-evaluation-harness: its task definitions over our copy of the data, and our models as one of its models."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import jinja2
import lm_eval
import pyarrow.parquet
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch import nn

from altq.evaluation.likelihood import Likelihood, Request, plan_batches, score_batch
from altq.experiment.tasks import ITEMS_FILE, TASKS
from altq.models.configuration import empty_model
from altq.models.model_folder import ModelFolder
from altq.models.tokenizer import load_tokenizer
from altq.runtime.progress import progress

SPLITS = ("training_split", "validation_split", "test_split")

# What it says of every task and model is said to those who call it from a command line.
logging.getLogger("lm_eval").setLevel(logging.ERROR)


def load_task(name: str, folder: str | Path, rows: Sequence[int]) -> ConfigurableTask:
    """The harness's own task of that name over these rows of the items in a folder that `altq fetch-task` wrote.

    Nothing but the place of the data is overridden: the harness's prompts, choices and metrics hold. ValueError where
    the items do not have the fields that the task reads.
    """
    split = TASKS[name].split
    definitions = TaskManager(
        include_path=str(Path(lm_eval.__file__).parent / "tasks" / TASKS[name].folder), include_defaults=False
    )
    evaluated = {key: None for key in SPLITS if not key.startswith(split)}

    def items(**_: Any) -> datasets.DatasetDict:
        table = read_item_table(folder)
        if rows and not 0 <= min(rows) <= max(rows) < table.num_rows:
            raise ValueError(f"item {max(rows)} is asked for, of {table.num_rows}; make the requests again")
        return datasets.DatasetDict({split: datasets.Dataset(table.take(list(rows)))})

    try:
        loaded = definitions.load({"group": "altq", "task": [{"task": name, "custom_dataset": items, **evaluated}]})
    except (KeyError, ValueError, IndexError, TypeError, AttributeError, jinja2.TemplateError) as error:
        raise ValueError(
            f"the items in {folder} are not those that {name} reads ({type(error).__name__}: {error}); correct the "
            "source of this task"
        ) from error
    return loaded["tasks"][name]


def read_item_table(folder: str | Path) -> pyarrow.Table:
    """The items in a folder that `altq fetch-task` wrote; ValueError where they cannot be read."""
    path = Path(folder) / ITEMS_FILE
    try:
        table = pyarrow.parquet.read_table(path)
        table.validate(full=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}); fetch the task again") from error
    return table


class HarnessModel(HFLM):
    """A model or a quantized checkpoint, to be handed to lm-evaluation-harness.

    The harness turns text into tokens; what it asks of them is computed with shared contexts and logits at the scored
    positions alone (altq/evaluation/likelihood.py), by the forward pass that perplexity uses.
    """

    def __init__(self, model: nn.Module, folder: str | Path) -> None:
        """folder: of the model, for its tokenizer."""
        super().__init__(pretrained=model, tokenizer=load_tokenizer(folder), trust_remote_code=False)

    @classmethod
    def without_weights(cls, folder: str | Path) -> "HarnessModel":
        """One that only encodes."""
        return cls(empty_model(ModelFolder.at(folder), with_buffers=False), folder)

    def encode(self, instances: Sequence[Instance]) -> list[Request]:
        """What the harness asks, in tokens."""
        # The base class encodes pairs of texts and hands them to `_loglikelihood_tokens`, which gives them back.
        pairs = super().loglikelihood(instances, disable_tqdm=True)
        return [Request(instance.doc_id, *pair) for instance, pair in zip(instances, pairs, strict=True)]

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[Likelihood]:
        """The log-likelihood of each continuation, and whether it is the greedy one."""
        encoded = self.encode(requests)
        found: dict[int, Likelihood] = {}
        for batch in progress(plan_batches(encoded, self.max_length), "log-likelihoods"):
            found |= score_batch(self.model, batch)
        return [found[index] for index in range(len(encoded))]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[list[int], list[int]]]:
        return [(context, continuation) for _, context, continuation in requests]
