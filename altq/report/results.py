"""Result files as the tables read them: what was evaluated, what came out, and the history of both."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from altq.experiment.methods import method_of
from altq.experiment.setting import FULL, Setting
from altq.experiment.tasks import TASKS, checked_task
from altq.runtime.documents import Record, read_described

REMEDY = "evaluate again"


def _method(name: str) -> str:
    try:
        return name if name == FULL else method_of(name) and name
    except KeyError:
        raise ValueError(f"method {name!r} is not known") from None


class Step(Record):
    """Record of one of the stages behind a result; of a source, nothing of it is known."""

    command: str | None = None
    options: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    processor_seconds: float | None = None


class History(Record):
    """The inputs of a result, and every stage that led to them, by path."""

    inputs: dict[str, Any] = {}
    upstream: dict[str, Step] = {}


class Result(Record):
    """Labels of a model or checkpoint that was evaluated, and its history."""

    setting: Annotated[str, AfterValidator(lambda text: str(Setting.parse(text)))]
    method: Annotated[str, AfterValidator(_method)]
    model: str
    weights: str
    seed: int
    provenance: History = History()


class PerplexityResult(Result):
    """Content of a file that `altq perplexity` wrote."""

    corpus: str
    perplexity: float = Field(gt=0)
    perplexity_low: float
    perplexity_high: float
    num_tokens: int


class Windows(Record):
    """On what windows a perplexity was measured: their tokens, and those of the longest that its model was made for."""

    model: str = ""
    window_length: int = 0
    max_position_embeddings: int | None = None


class Estimate(Record):
    """An accuracy from 0 to 1, and its standard error."""

    value: float = Field(ge=0, le=1)
    stderr: float = Field(ge=0)


class AccuracyResult(Result):
    """Content of a file that `altq zero-shot` wrote."""

    task: Annotated[str, AfterValidator(checked_task)]
    num_items: int = Field(ge=1)
    acc: Estimate
    acc_norm: Estimate | None = None


def read_perplexity(path: str | Path) -> dict[str, Any]:
    """A perplexity result; ValueError names the file and what is wrong with it."""
    return read_described(path, PerplexityResult, remedy=REMEDY, role="a perplexity result").model_dump()


def read_accuracy(path: str | Path) -> dict[str, Any]:
    """A zero-shot result; ValueError names the file and what is wrong with it."""
    result = read_described(path, AccuracyResult, remedy=REMEDY, role="a zero-shot result").model_dump(
        exclude_none=True
    )
    metric = TASKS[result["task"]].metric
    if metric not in result:
        raise ValueError(f"{path} has no {metric}, which the average of {result['task']} takes; {REMEDY}")
    return result
