"""Table 3 on the made model, from made items, and what is refused."""

import csv
import json
import shutil

import pyarrow.parquet
import pytest
import yaml

pytestmark = pytest.mark.slow

TASKS = ("hellaswag", "lambada_openai")
METHODS = ("full", "flatquant", "adaptive")


@pytest.fixture(scope="module")
def results(smoke, project, tmp_path_factory, snakemake):
    """The results of Table 3, made from a copy of the smoke experiment."""
    folder = tmp_path_factory.mktemp("zero_shot") / "run"
    shutil.copytree(smoke.folder, folder)
    result = snakemake(
        "--configfile", project / "configs" / "smoke.yaml", "--cores", "2", "results/table3.csv", folder=folder
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
    return folder / "results"


def test_the_table_has_every_task_and_the_average(results):
    with open(results / "table3.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["task"]) for row in rows] == [
        (method, task) for method in METHODS for task in (*TASKS, "average")
    ]
    for row in rows:
        assert 0 <= float(row["accuracy"]) <= 1 and float(row["stderr"]) >= 0
        assert row["num_items"] == ("16" if row["task"] == "average" else "8")
        assert bool(row["difference"]) == (row["method"] == "adaptive")
    for suffix in (".md", ".tex", ".png", ".json", ".protocol.md", ".protocol.html"):
        assert (results / "table3.csv").with_suffix(suffix).stat().st_size > 0


def test_every_method_is_asked_the_same_items(results):
    for task in TASKS:
        items = [
            pyarrow.parquet.read_table(path)["item"].to_pylist()
            for path in sorted((results / "zero_shot").rglob(f"{task}.parquet"))
        ]
        assert len(items) == len(METHODS) and items[0] == items[1] == items[2] and len(items[0]) == 8
    hellaswag = json.loads((results / "requests/made/hellaswag.json").read_text())
    assert hellaswag["num_requests"] == 32 and hellaswag["num_available"] == 12


def test_a_result_says_what_it_was_made_from(results):
    record = json.loads((results / "zero_shot/made/adaptive/W3A3K2V2/gptq/seed0/hellaswag.json").read_text())
    history = record["provenance"]["upstream"]
    commands = {entry.get("command") for entry in history.values()}
    assert {"assemble", "requests", "select", "calibrate"} <= commands
    assert history["results/tasks/hellaswag"]["source"] == {"made": 12}
    assert not list((results / "zero_shot").rglob("*.scratch"))


def test_a_configuration_that_asks_for_what_is_not_there_is_refused(project, tmp_path, snakemake):
    config = yaml.safe_load((project / "configs" / "smoke.yaml").read_text())
    config["tasks"] = {"hella_swag": {"made": 8}, "piqa": {"path": "absent.jsonl"}}
    config["zero_shot"] = {"reference": "flatqant", "limit": 1}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    refused = snakemake("--configfile", tmp_path / "c.yaml", "-n", "results/table3.csv", folder=tmp_path)
    said = refused.stdout + refused.stderr
    assert "tasks.piqa.path: local path 'absent.jsonl' does not exist" in said
    assert "method 'flatqant' is not known; did you mean flatquant?" in said
    assert "zero_shot.limit: Input should be greater than or equal to 2" in said
    config |= {"tasks": {}, "zero_shot": {}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    refused = snakemake("--configfile", tmp_path / "c.yaml", "-n", "results/table3.csv", folder=tmp_path)
    assert (
        "study.table4.zero_shot asks for zero-shot results, but there are no tasks" in refused.stdout + refused.stderr
    )
    config["study"] = {}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    refused = snakemake("--configfile", tmp_path / "c.yaml", "-n", "results/table3.csv", folder=tmp_path)
    assert "Table 3 needs `tasks` in the configuration" in refused.stdout + refused.stderr
    assert "Traceback (most recent call last)" not in refused.stdout + refused.stderr
