"""Perplexity results with a history, as `altq perplexity` writes them, and the selections behind them."""

from altq.experiment.methods import MEASURED_POLICIES, method_of
from altq.selection.selection import Decision, Selection

MODEL = "tiny"


def selection_path(method, setting="W3A3K3V3", seed=0):
    policy = method_of(method).policy
    below = f"{MODEL}/{setting}/seed{seed}" if policy in MEASURED_POLICIES else MODEL
    return f"results/selections/{below}/{policy}.json"


def selection(policy, *kinds, thresholds=None):
    decisions = tuple(Decision(s, kind, "for a test") for s, kind in enumerate(kinds))
    return Selection(policy, MODEL, len(kinds) // 2, decisions, thresholds or {})


def step(command, seconds, inputs=(), **options):
    return {
        "command": command, "processor_seconds": seconds, "inputs": dict.fromkeys(inputs, "hash"), "options": options
    }  # fmt: skip


def result(method, perplexity, *, corpus="wiki", setting="W3A3K3V3", seed=0, choosing=None, weights="gptq"):
    """choosing: {path: record} of what the selection was made from, besides its own process of one second."""
    banks = {f"results/bank/{MODEL}/{setting}/seed{seed}/{kind}": kind for kind in ("affine", "rotation")}
    chosen, choosing = selection_path(method, setting, seed), choosing or {}
    states, model = f"results/states/{MODEL}/seed{seed}", f"results/models/{MODEL}"
    checkpoint = f"results/checkpoints/{MODEL}/{method}/{setting}/{weights}/seed{seed}"
    tokens = f"results/tokens/{MODEL}/{corpus}/test.npy"
    upstream = {
        model: {"source": "made"},
        tokens: {"window_length": 8},
        states: step("states", 1000.0, [model]),
        **{
            path: step("calibrate", 100.0 if kind == "affine" else 300.0, [model, states], kind=kind)
            for path, kind in banks.items()
        },
        **choosing,
        chosen: step("select", 1.0, choosing),
        checkpoint: step("assemble", 50.0, [model, states, chosen, *banks]),
    }
    return {
        "setting": setting, "method": method, "model": MODEL, "corpus": corpus, "weights": weights, "seed": seed,
        "perplexity": perplexity, "perplexity_low": 0.9 * perplexity, "perplexity_high": 1.1 * perplexity,
        "num_tokens": 511, "nll": [1.0, 2.0],
        "provenance": {"inputs": {checkpoint: "hash", tokens: "hash"}, "upstream": upstream},
    }  # fmt: skip


def full(perplexity, corpus="wiki"):
    """Of the model in full precision."""
    made = result("affine", perplexity, corpus=corpus, setting="W16A16K16V16", weights="none")
    return made | {"method": "full"}
