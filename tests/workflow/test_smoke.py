"""The whole workflow on the made model: it finishes in time, and every result is there with its history."""

import csv
import json
import math

import pytest

pytestmark = pytest.mark.slow


def test_in_under_two_minutes_on_two_cores(smoke):
    # In processor time, since other work may be going on beside the tests.
    assert smoke.processor_seconds < 2 * 120
    assert "33 of 33 steps (100%) done" in smoke.said


def test_the_table_has_every_result_once(smoke):
    with open(smoke.folder / "results" / "table2.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    places = [(row["method"], row["setting"], row["weights"]) for row in rows]
    settings = ("W4A4K4V4", "W3A3K2V2")
    expected = {("full", "W16A16K16V16", "none")}
    expected |= {(m, s, "gptq") for m in ("rtn", "affine", "rotation", "adaptive") for s in settings}
    assert len(places) == len(set(places)) and set(places) == expected
    for row in rows:
        low, value, high = (float(row[name]) for name in ("perplexity_low", "perplexity", "perplexity_high"))
        assert 1 < low <= value <= high and math.isfinite(high)
        assert row["num_tokens"] == str(8 * 63) and row["seed"] == "0"


def test_quantization_costs_something(smoke):
    def perplexity(method, setting, weights):
        path = smoke.folder / f"results/perplexity/made/{method}/{setting}/{weights}/seed0/pydoc.json"
        return json.loads(path.read_text())["perplexity"]

    full = perplexity("full", "W16A16K16V16", "none")
    assert perplexity("affine", "W3A3K2V2", "gptq") != full
    assert perplexity("affine", "W4A4K4V4", "gptq") != perplexity("rtn", "W4A4K4V4", "gptq")


def test_a_result_leads_back_to_the_model(smoke):
    path = smoke.folder / "results/perplexity/made/adaptive/W3A3K2V2/gptq/seed0/pydoc.json"
    result = json.loads(path.read_text())
    assert len(result["nll"]) == result["num_windows"] == 8
    assert math.exp(sum(result["nll"]) / result["num_tokens"]) == pytest.approx(result["perplexity"])
    upstream = result["provenance"]["upstream"]
    commands = {record.get("command") for record in upstream.values()} - {None}
    assert commands == {"assemble", "calibrate", "select", "states", "statistics"}
    assert upstream["results/models/made"]["files"]["model.safetensors"]
    assert upstream["results/bank/made/W3A3K2V2/seed0/affine"]["options"]["recipe"]["steps"] == 2
    assert upstream["results/tokens/made/pydoc/test.npy"]["window_length"] == 64


def test_the_table_is_shown(smoke, altq):
    shown = altq("show", "results/table2.csv", folder=smoke.folder)
    assert shown.returncode == 0, shown.stderr
    for text in ("Table 2", "W3A3K2V2", "Adaptive", "Departs from the paper", "its numbers mean nothing"):
        assert text in " ".join(shown.stdout.split())


def test_nothing_is_done_twice(smoke, project, snakemake):
    again = snakemake("--configfile", project / "configs" / "smoke.yaml", "--cores", "2", folder=smoke.folder)
    assert again.returncode == 0 and "Nothing to be done" in again.stdout + again.stderr


def test_every_job_has_its_log_and_benchmark(smoke):
    results = smoke.folder / "results"
    assert len(list((results / "logs").rglob("*.log"))) == len(list((results / "benchmarks").rglob("*.tsv"))) == 32
