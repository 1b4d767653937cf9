"""Log-likelihoods of continuations given contexts, as evaluation harnesses ask for them, with nothing computed twice.

The requests of one item mostly begin alike (a question, then one of its answers). They are laid out in one row: what
all of them begin with once, then the rest of each, under a mask that shows a token only what stands before it in its
own request. Rows of similar length form a batch, and logits are made at the scored positions alone. Activations and
cache are quantized token by token, so that a quantized model computes for each request what it would compute alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from altq.models.configuration import rope_parameters
from altq.models.logits import make_logits
from altq.runtime.device import traits_of

TOKENS_PER_BATCH = 1024
"""Of a batch, padding included; a row that is longer is a batch of its own."""
PADDING = -1
"""The branch of a padded place."""


class Request(NamedTuple):
    """How likely is `continuation` after `context`? Requests with the same `item` are laid out together."""

    item: int
    context: Sequence[int]
    continuation: Sequence[int]


class Likelihood(NamedTuple):
    """The sum of the log-probabilities of a continuation's tokens, and whether each of them is the likeliest."""

    log_likelihood: float
    is_greedy: bool


@dataclass(frozen=True)
class Row:
    """The requests of one item side by side.

    tokens, positions, branches [t]: branch 0 is what all requests begin with, branch k the rest of the kth. scored: for
    each request the places [n] whose outputs predict its continuation [n].
    """

    requests: tuple[int, ...]
    tokens: list[int]
    positions: list[int]
    branches: list[int]
    scored: list[list[int]]
    continuations: list[Sequence[int]]


def lay_out(requests: Sequence[Request], indices: Sequence[int], max_length: int) -> Row:
    """The requests at `indices`, which belong to one item, as a row.

    A request of more than max_length + 1 tokens loses its first ones, as in lm-evaluation-harness; its last token is
    only predicted. ValueError for an empty context or continuation, or a continuation that does not fit.
    """
    inputs = []
    for index in indices:
        _, context, continuation = requests[index]
        if not context or not 0 < len(continuation) <= max_length:
            raise ValueError(
                f"item {requests[index].item} asks for {len(continuation)} tokens after {len(context)}, but a request "
                f"has a context and 1 to {max_length} tokens after it"
            )
        inputs.append([*context, *continuation][-(max_length + 1) : -1])
    shared = _common_length(inputs)
    tokens, positions, branches = list(inputs[0][:shared]), list(range(shared)), [0] * shared
    scored = []
    for branch, (index, own) in enumerate(zip(indices, inputs, strict=True), start=1):
        begin = len(tokens) - shared  # of this branch, less its position
        first = len(own) - len(requests[index].continuation)
        scored.append([place if place < shared else begin + place for place in range(first, len(own))])
        tokens += own[shared:]
        positions += range(shared, len(own))
        branches += [branch] * (len(own) - shared)
    return Row(
        requests=tuple(indices),
        tokens=tokens,
        positions=positions,
        branches=branches,
        scored=scored,
        continuations=[requests[i].continuation for i in indices],
    )


def _common_length(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all sequences begin with alike."""
    for place, tokens in enumerate(zip(*sequences, strict=False)):
        if len(set(tokens)) > 1:
            return place
    return min(map(len, sequences))


def is_truncated(request: Request, max_length: int) -> bool:
    """Whether a request loses its first tokens."""
    return len(request.context) + len(request.continuation) > max_length + 1


def plan_batches(requests: Sequence[Request], max_length: int) -> list[list[Row]]:
    """All requests in batches of rows, the longest first; the same for the same requests."""
    items: dict[int, list[int]] = {}
    for index, request in enumerate(requests):
        items.setdefault(request.item, []).append(index)
    rows = [lay_out(requests, indices, max_length) for indices in items.values()]
    rows.sort(key=lambda row: len(row.tokens), reverse=True)
    batches: list[list[Row]] = []
    for row in rows:
        if not batches or (len(batches[-1]) + 1) * len(batches[-1][0].tokens) > TOKENS_PER_BATCH:
            batches.append([])
        batches[-1].append(row)
    return batches


@torch.no_grad()
def score_batch(model: PreTrainedModel, rows: Sequence[Row]) -> dict[int, Likelihood]:
    """The likelihood of every request of a batch, by its index; ValueError where one is not finite."""
    require_causal(model)
    tokens, positions = _padded([row.tokens for row in rows], 0), _padded([row.positions for row in rows], 0)
    mask = _visible(_padded([row.branches for row in rows], PADDING))
    _check_lengths(model, positions)
    device = model.device
    hidden = model.get_decoder()(
        tokens.to(device), attention_mask=mask.to(device), position_ids=positions.to(device), use_cache=False
    ).last_hidden_state  # [rows, t, hidden]
    owners = [index for row in rows for index, places in zip(row.requests, row.scored, strict=True) for _ in places]
    places = [n * tokens.shape[1] + place for n, row in enumerate(rows) for places in row.scored for place in places]
    targets = [token for row in rows for continuation in row.continuations for token in continuation]
    log_probabilities, is_likeliest = _predict(
        hidden.flatten(0, 1), model, places=torch.tensor(places), targets=torch.tensor(targets)
    )
    sums = dict.fromkeys(owners, 0.0)
    greedy = dict.fromkeys(owners, True)
    for owner, value, likeliest in zip(owners, log_probabilities.tolist(), is_likeliest.tolist(), strict=True):
        sums[owner] += value
        greedy[owner] &= likeliest
    if not torch.isfinite(log_probabilities).all():
        raise ValueError("a log-likelihood is not finite; the model's outputs overflow")
    return {owner: Likelihood(sums[owner], greedy[owner]) for owner in sums}


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """[rows, t], padded on the right."""
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def _visible(branches: Tensor) -> Tensor:
    """Which places [rows, 1, t, t] a place sees: those before it that all requests share or that are of its branch."""
    same = branches.unsqueeze(2) == branches.unsqueeze(1)
    shared = (branches == 0).unsqueeze(1)
    return (same | shared).tril().unsqueeze(1)


def require_causal(model: PreTrainedModel) -> None:
    """ValueError for a model whose tokens see later ones: it predicts nothing token by token."""
    if getattr(model.config, "use_bidirectional_attention", False):
        raise ValueError(
            "the model sees later tokens (use_bidirectional_attention), so that the next one cannot be asked of it; "
            "use a model that is made to predict"
        )


def _check_lengths(model: PreTrainedModel, positions: Tensor) -> None:
    """ValueError for a request that would be computed otherwise in a batch than alone."""
    length = int(positions.max()) + 1
    window = getattr(model.config, "sliding_window", None)
    if window and length > window:
        raise ValueError(
            f"a request of {length} tokens is longer than the model's sliding window of {window}, "
            "which rows of several requests do not keep to; leave the task out"
        )
    for parameters in rope_parameters(model.config):
        kind = parameters["rope_type"]
        bounds = {
            "dynamic": model.config.max_position_embeddings,
            "longrope": parameters.get("original_max_position_embeddings"),
        }
        changes = parameters.get("short_factor") != parameters.get("long_factor") or kind == "dynamic"
        if kind in bounds and changes and length > bounds[kind]:
            raise ValueError(
                f"a request of {length} tokens is longer than those for which the model's rotary embedding of type "
                f"{kind} is the same at every length: {bounds[kind]} tokens; leave the task out"
            )


def _predict(hidden: Tensor, model: PreTrainedModel, places: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probability of each target at its place, and whether it is the likeliest: [n] each, on the CPU.

    hidden: [places, hidden], on any device; logits are made once for each place, for some places at a time.
    """
    count = traits_of(hidden.device).tokens_of_logits
    needed, which = places.unique(return_inverse=True)
    values, likeliest = torch.empty(len(targets), dtype=torch.float64), torch.empty(len(targets), dtype=torch.bool)
    for start in range(0, len(needed), count):
        logits = make_logits(model, hidden[needed[start : start + count].to(hidden.device)])
        asked = (start <= which) & (which < start + count)
        rows, words = ((x[asked]).to(hidden.device) for x in (which - start, targets))
        values[asked] = (logits[rows, words] - logits.logsumexp(-1)[rows]).double().cpu()
        likeliest[asked] = (logits.argmax(-1)[rows] == words).cpu()
    return values, likeliest
