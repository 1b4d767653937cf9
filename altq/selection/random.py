"""Random selections: each candidate kind at an equal share of each half, drawn with a seed (Table 1)."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from altq.experiment.kinds import HALVES
from altq.runtime.documents import Record, read_described
from altq.selection.selection import Decision, Selection


def random_selection(model: str, num_blocks: int, *, candidates: Sequence[str], seed: int) -> Selection:
    """Deal candidates in turn over the n layers of each half, shuffled by numpy's PCG64(seed).

    Two candidates get half of the attention layers and half of the ffn layers each; where n is odd, the first of them
    gets one more. The policy is named random<seed>.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    halves = []
    for _ in HALVES:
        kinds = [candidates[i % len(candidates)] for i in range(num_blocks)]
        halves.append([kinds[i] for i in generator.permutation(num_blocks)])
    decisions = [
        Decision(sublayer, halves[sublayer % 2][sublayer // 2], f"drawn with seed {seed}")
        for sublayer in range(2 * num_blocks)
    ]
    return Selection(policy=f"random{seed}", model=model, num_blocks=num_blocks, decisions=tuple(decisions))


class _Result(Record):
    """The keys of a perplexity result that are read."""

    method: str
    corpus: str
    perplexity: float = Field(gt=0)


def read_result(path: str | Path) -> dict[str, Any]:
    """The method, text and perplexity of a result; ValueError names the file and what is wrong with it."""
    return read_described(path, _Result, "evaluate again").model_dump()


def best_of(results: Iterable[Mapping[str, Any]]) -> str:
    """The method with the lowest geometric mean of its perplexities, of which each has one for every text.

    ValueError where some have more texts than others.
    """
    logs: dict[str, dict[str, float]] = defaultdict(dict)
    for result in results:
        logs[result["method"]][result["corpus"]] = math.log(result["perplexity"])
    texts = {frozenset(by_text) for by_text in logs.values()}
    if len(texts) != 1:
        raise ValueError(f"the perplexities of {', '.join(sorted(logs))} are not over the same texts")
    return min(logs, key=lambda method: (math.fsum(logs[method].values()), method))
