"""Accuracy from scores, and that a stopped run goes on to the same result."""

import math

import lm_eval
import numpy as np
import pytest
from stopped_for_tests import Stopped, stop_after

from altq.checkpoint.quantized_model import load_model
from altq.evaluation import zero_shot as module
from altq.evaluation.harness import HarnessModel, load_task
from altq.evaluation.likelihood import Likelihood, Request
from altq.evaluation.requests import TaskRequests, make_requests
from altq.evaluation.zero_shot import judge, score
from altq.experiment.sources import TaskDescription
from altq.experiment.tasks import TASKS
from altq.runtime.resume import Scratch
from altq.sources.task import fetch_task


@pytest.fixture
def asked(tmp_path, made_model):
    """The folder of a task's items and its requests, for a name."""

    def make(name, limit=6):
        fetch_task(name, TaskDescription(made=10), tmp_path / name)
        rng = np.random.Generator(np.random.PCG64(0))
        return tmp_path / name, make_requests(name, tmp_path / name, made_model, limit, rng)

    return make


@pytest.mark.parametrize("name", TASKS)
def test_accuracies_are_the_harnesss(name, asked, made_model, tmp_path):
    folder, requests = asked(name)
    table, accuracies = judge(name, folder, requests, score(made_model, requests, Scratch(tmp_path / "j", "")))
    task = load_task(name, folder, requests.items)
    own = lm_eval.evaluate(
        lm=HarnessModel(load_model(made_model), made_model), task_dict={name: task}, bootstrap_iters=2
    )["results"][name]
    for metric in ("acc", "acc_norm"):
        assert (metric in accuracies) == (f"{metric},none" in own)
        if metric in accuracies:
            assert accuracies[metric].value == own[f"{metric},none"]
            assert accuracies[metric].stderr == pytest.approx(own[f"{metric}_stderr,none"])
    assert table["item"].to_pylist() == requests.items


def test_both_accuracies_by_hand(asked):
    folder, requests = asked("piqa", limit=None)
    items = load_task("piqa", folder, requests.items).eval_docs
    # The first choice is likelier a token, the second likelier as a whole, or the other way around.
    likelihoods = [Likelihood(-1.0 * len(doc[choice]), False) for doc in items for choice in ("sol1", "sol2")]
    likelihoods[0] = Likelihood(-0.9 * len(items[0]["sol1"]), False)
    table, accuracies = judge("piqa", folder, requests, likelihoods)
    shorter = [min((0, 1), key=lambda n: len(doc[("sol1", "sol2")[n]])) for doc in items]
    for row, doc, pick in list(zip(table.to_pylist(), items, shorter, strict=True))[1:]:
        assert row["acc"] == (pick == doc["label"])
    assert table["acc_norm"].to_pylist()[0] == (items[0]["label"] == 0)
    assert accuracies["acc"].value == sum(table["acc"].to_pylist()) / 10
    p = accuracies["acc_norm"].value
    assert accuracies["acc_norm"].stderr == pytest.approx(math.sqrt(p * (1 - p) / 9))


@pytest.mark.parametrize("stopped_after", [0, 1, 2])
def test_a_stopped_run_goes_on_to_the_same_scores(asked, made_model, tmp_path, monkeypatch, stopped_after):
    _, requests = asked("hellaswag")
    monkeypatch.setattr("altq.evaluation.likelihood.TOKENS_PER_BATCH", 100)
    expected = score(made_model, requests, Scratch(tmp_path / "whole", "f"))
    calls = stop_after(monkeypatch, module, "score_batch", stopped_after)
    with pytest.raises(Stopped):
        score(made_model, requests, Scratch(tmp_path / "j", "f"))
    calls.clear()
    assert score(made_model, requests, Scratch(tmp_path / "j", "f")) == expected
    whole = len(Scratch(tmp_path / "whole", "f").units)
    assert whole > 2 and len(calls) == whole - stopped_after


def test_truncated_items_are_said(asked, made_model):
    folder, requests = asked("lambada_openai", limit=None)
    long = [Request(r.item, [*r.context] * 999, r.continuation) if r.item == 4 else r for r in requests.requests]
    cut = TaskRequests(long, requests.max_length, 10, 1.0)
    table, _ = judge("lambada_openai", folder, cut, [Likelihood(-1.0, True)] * 10)
    assert [row["item"] for row in table.to_pylist() if row["is_truncated"]] == [4]
