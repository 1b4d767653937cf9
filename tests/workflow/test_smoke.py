"""The whole workflow on the made model: every result is there with its history."""

import csv
import json
import math
import shutil

import pytest

pytestmark = pytest.mark.slow

METHODS = ("rtn", "smoothquant", "quarot", "spinquant", "ostquant", "flatquant", "affine", "rotation", "adaptive")
BANKS_OF = {"rtn": 0, "adaptive": 2}  # all others read one


def rows_of(smoke, table):
    with open(smoke.folder / "results" / table, newline="") as file:
        return list(csv.DictReader(file))


def record_of(smoke, bank):
    path = smoke.folder / "results/bank/made/W3A3K2V2/seed0" / bank / "provenance.json"
    return json.loads(path.read_text())


def test_every_job_is_done_once(smoke):
    assert "40 of 40 steps (100%) done" in smoke.said


def test_the_table_has_every_result_once(smoke):
    rows = rows_of(smoke, "table2.csv")
    places = [(row["method"], row["setting"], row["weights"]) for row in rows]
    expected = {("full", "W16A16K16V16", "none")} | {(method, "W3A3K2V2", "gptq") for method in METHODS}
    assert len(places) == len(set(places)) and set(places) == expected
    for row in rows:
        low, value, high = (float(row[name]) for name in ("perplexity_low", "perplexity", "perplexity_high"))
        assert 1 < low <= value <= high and math.isfinite(high)
        assert row["num_tokens"] == str(8 * 63) and row["seed"] == "0"


def test_every_method_is_another_model(smoke):
    perplexities = [row["perplexity"] for row in rows_of(smoke, "table2.csv")]
    assert len(set(perplexities)) == len(perplexities)


def test_the_cost_of_every_method(smoke):
    rows = rows_of(smoke, "cost.csv")
    assert [(row["method"], row["setting"], row["weights"], row["seed"]) for row in rows] == [
        (method, "W3A3K2V2", "gptq", "0") for method in METHODS
    ]
    for row in rows:
        for stage in ("calibration", "states", "assembly"):
            seconds, processor_seconds, memory = (
                float(row[f"{stage}_{measure}"]) for measure in ("seconds", "processor_seconds", "memory_mb")
            )
            assert all(map(math.isfinite, (seconds, processor_seconds, memory)))
            if stage == "calibration" and not BANKS_OF.get(row["method"], 1):
                assert (seconds, processor_seconds, memory) == (0, 0, 0)
            else:
                assert seconds > 0.1 and processor_seconds > 0.1 and 50 < memory < 5000
    seconds = {row["method"]: float(row["calibration_seconds"]) for row in rows}
    assert seconds["adaptive"] == pytest.approx(seconds["affine"] + seconds["rotation"], abs=0.01)


def test_each_baseline_is_calibrated_by_its_own_recipe(smoke):
    commands = {bank: record_of(smoke, bank)["command"] for bank in METHODS if bank not in ("rtn", "adaptive")}
    assert [bank for bank, command in commands.items() if command == "calibrate-end-to-end"] == [
        "quarot", "spinquant", "ostquant",
    ]  # fmt: skip
    assert record_of(smoke, "flatquant")["options"]["recipe"]["unit"] == "block"
    assert record_of(smoke, "affine")["options"]["recipe"]["unit"] == "sublayer"
    recipe = record_of(smoke, "spinquant")["options"]["recipe"]
    assert (recipe["steps"], recipe["rotation_rate"]) == (2, 1.5)  # the configuration's; its authors'
    assert record_of(smoke, "smoothquant")["options"]["kind"] == "scaling"


def test_the_paper_s_method_mixes_both_kinds(smoke):
    kinds = json.loads((smoke.folder / "results/selections/made/heuristic.json").read_text())["kinds"]
    assert set(kinds) == {"affine", "rotation"}


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


@pytest.mark.parametrize(
    ("table", "texts"),
    [
        ("table2.csv", ("Table 2", "Protocol: results/table2.protocol.md")),
        ("cost.csv", ("Cost", "CPU s", "Protocol: results/cost.protocol.md")),
    ],
)
def test_the_tables_are_shown(smoke, altq, table, texts):
    shown = altq("show", f"results/{table}", folder=smoke.folder)
    assert shown.returncode == 0, shown.stderr
    for text in (*texts, "W3A3K2V2", "SpinQuant", "Adaptive"):
        assert text in " ".join(shown.stdout.split())


def test_the_protocol_lies_beside_the_table(smoke):
    text = (smoke.folder / "results/table2.protocol.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["Key", "Here", "Paper"]
    assert ["recipe.steps", "**2**", "480"] in rows and ["baselines.spinquant.steps", "**2**", "100"] in rows
    assert any(key == "note" and "mean nothing" in here for key, here, _ in rows)
    for suffix in (".md", ".tex"):
        assert "mean nothing" not in (smoke.folder / "results/table2").with_suffix(suffix).read_text()


def test_nothing_is_done_twice(smoke, project, snakemake, tmp_path):
    shutil.copytree(smoke.folder, tmp_path / "run")
    again = snakemake("--configfile", project / "configs" / "smoke.yaml", "--cores", "2", folder=tmp_path / "run")
    assert again.returncode == 0 and "Nothing to be done" in again.stdout + again.stderr


def test_every_job_has_its_log_and_benchmark(smoke):
    results = smoke.folder / "results"
    assert len(list((results / "logs").rglob("*.log"))) == len(list((results / "benchmarks").rglob("*.tsv"))) == 39
