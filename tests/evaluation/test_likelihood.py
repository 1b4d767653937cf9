"""Scores of requests that share a row are those that each has alone."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import VOCAB, Workspace, save_tiny_model
from torch.nn import functional as F

from altq.checkpoint.quantized_model import load_model
from altq.evaluation import likelihood as module
from altq.evaluation.likelihood import Request, is_truncated, lay_out, plan_batches, score_batch
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.runtime import device

TOKENS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=6)
ITEMS = st.lists(
    st.tuples(TOKENS, st.lists(st.tuples(st.booleans(), TOKENS, TOKENS), min_size=1, max_size=4)),
    min_size=1,
    max_size=5,
)
MAX_LENGTH = 9


def requests_of(items):
    """Requests of items whose contexts are shared, or differ, or differ from some token on."""
    return [
        Request(number, context if shares else context + own, continuation)
        for number, (context, choices) in enumerate(items)
        for shares, own, continuation in choices
    ]


def score(model, requests, max_length=MAX_LENGTH):
    found = {}
    for batch in plan_batches(requests, max_length):
        found |= score_batch(model, batch)
    assert len(found) == len(requests)
    return [found[index] for index in range(len(requests))]


def alone(model, request, max_length=MAX_LENGTH):
    """As lm-evaluation-harness computes it: one sequence, all of its logits."""
    tokens = [*request.context, *request.continuation][-(max_length + 1) :]
    with torch.no_grad():
        logits = model(torch.tensor([tokens[:-1]])).logits[0, -len(request.continuation) :]
    targets = torch.tensor(request.continuation)
    log_likelihood = F.log_softmax(logits, -1).gather(1, targets[:, None]).sum().item()
    return log_likelihood, bool((logits.argmax(-1) == targets).all())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(save_tiny_model("llama_gqa", tmp_path_factory.mktemp("model")))


@settings(max_examples=60, deadline=None)
@given(ITEMS)
def test_requests_in_rows_score_as_they_do_alone(model, items):
    requests = requests_of(items)
    for request, (log_likelihood, greedy) in zip(requests, score(model, requests), strict=True):
        expected, expected_greedy = alone(model, request)
        assert log_likelihood == pytest.approx(expected, abs=1e-4, rel=1e-4)
        assert greedy == expected_greedy


@pytest.mark.parametrize("name", ["qwen3", "gemma3_text"])
def test_every_family_takes_the_mask(name, tmp_path):
    model = load_model(save_tiny_model(name, tmp_path))
    requests = [Request(0, [3, 4], [5, 6]), Request(0, [3, 4], [7]), Request(1, [9], [10, 11])]
    for request, found in zip(requests, score(model, requests), strict=True):
        assert found.log_likelihood == pytest.approx(alone(model, request)[0], rel=1e-4)


def test_a_quantized_model_scores_a_shared_context_as_it_scores_it_alone(tmp_path):
    kinds = ["affine", "rotation", "rotation", "affine"]
    folder = Workspace("llama_gqa", tmp_path).checkpoint(Setting(4, 4, 4, 4), kinds, RoundingOptions(weights="rtn"))
    model = load_model(folder)
    context = [5, 8, 13, 21]
    requests = [Request(0, context, [choice, 2, 3]) for choice in (1, 30, 40)]
    together = score(model, requests)
    for request, found in zip(requests, together, strict=True):
        assert found.log_likelihood == pytest.approx(alone(model, request)[0], abs=1e-3)
    assert len({found.log_likelihood for found in together}) == 3


def test_greedy_is_whether_every_token_is_the_likeliest(model):
    context, greedy = [1, 2, 3], []
    with torch.no_grad():
        for _ in range(3):
            greedy.append(model(torch.tensor([context + greedy])).logits[0, -1].argmax().item())
    wrong = [*greedy[:2], (greedy[2] + 1) % VOCAB]
    found = score(model, [Request(0, context, greedy), Request(0, context, wrong), Request(0, context, greedy[:1])])
    assert [likelihood.is_greedy for likelihood in found] == [True, False, True]


@given(ITEMS)
def test_a_row_has_each_shared_token_once(items):
    requests = requests_of(items)
    for number in range(len(items)):
        indices = [i for i, request in enumerate(requests) if request.item == number]
        row = lay_out(requests, indices, MAX_LENGTH)
        inputs = [[*requests[i].context, *requests[i].continuation][-(MAX_LENGTH + 1) : -1] for i in indices]
        shared = row.branches.count(0)
        assert len(row.tokens) == shared + sum(len(own) - shared for own in inputs)
        for branch, own in enumerate(inputs, start=1):
            seen = [(p, t) for p, t, b in zip(row.positions, row.tokens, row.branches, strict=True) if b in (0, branch)]
            assert seen == list(enumerate(own))


@given(ITEMS, st.integers(1, 40))
def test_batches_hold_every_request_once_within_their_budget(items, budget):
    requests = requests_of(items)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TOKENS_PER_BATCH", budget)
        batches = plan_batches(requests, MAX_LENGTH)
    assert sorted(i for batch in batches for row in batch for i in row.requests) == list(range(len(requests)))
    for batch in batches:
        longest = max(len(row.tokens) for row in batch)
        assert longest == len(batch[0].tokens)
        assert len(batch) == 1 or len(batch) * longest <= budget


def test_the_plan_does_not_change_scores(model, monkeypatch):
    requests = requests_of([([1, 2], [(True, [0], [n]), (True, [0], [n, 4])]) for n in range(6)])
    expected = [found.log_likelihood for found in score(model, requests)]
    for budget, logits in ((1, 1), (7, 3), (1000, 1000)):
        monkeypatch.setattr(module, "TOKENS_PER_BATCH", budget)
        monkeypatch.setattr(device, "ON_CPU", replace(device.ON_CPU, tokens_of_logits=logits))
        assert [found.log_likelihood for found in score(model, requests)] == pytest.approx(expected, rel=1e-5)


def test_a_long_request_loses_its_first_tokens(model):
    long, short = Request(0, list(range(20)), [1, 2]), Request(1, list(range(8)), [1, 2])
    assert is_truncated(long, MAX_LENGTH) and not is_truncated(short, MAX_LENGTH)
    cut = Request(2, list(range(12, 20)), [1, 2])
    found = score(model, [long, cut])
    assert found[0].log_likelihood == pytest.approx(found[1].log_likelihood, rel=1e-5)


@pytest.mark.parametrize(("context", "continuation"), [([], [1]), ([1], []), ([1], [1] * (MAX_LENGTH + 1))])
def test_what_cannot_be_asked_is_refused(context, continuation):
    with pytest.raises(ValueError, match=r"item 7 asks for .* tokens"):
        plan_batches([Request(7, context, continuation)], MAX_LENGTH)


def test_a_nan_is_refused(tmp_path):
    model = load_model(save_tiny_model("llama_gqa", tmp_path))
    model.get_input_embeddings().weight[5] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        score(model, [Request(0, [5], [1])])


def test_a_sliding_window_is_not_overrun(tmp_path):
    model = load_model(save_tiny_model("mistral", tmp_path))  # its window is of 5 tokens
    with pytest.raises(ValueError, match="a request of 6 tokens is longer than the model's sliding window of 5"):
        score(model, [Request(0, [1, 2, 3, 4], [5, 6, 7])])
