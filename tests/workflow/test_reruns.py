"""What an edit reruns, and what it does not: dry runs over a finished smoke experiment.

It is finished by a real run of the workflow in which every command only writes its output files, so that Snakemake has
recorded every job's parameters, inputs and code, which is all that its decisions read. (`--touch` does not do: it
leaves out some records now and then.)
"""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml

from altq.runtime.code_hash import stage_modules

SETTINGS = ("W3A3K2V2",)
END_TO_END = ("quarot", "spinquant", "ostquant")
UNIT_WISE = ("smoothquant", "flatquant", "affine", "rotation")
OURS = ("affine", "rotation", "adaptive")
METHODS = ("rtn", "smoothquant", *END_TO_END, "flatquant", *OURS)
PROTOCOL = ("protocol.md", "protocol.html")
LAID_OUT = ("csv", "json", "md", "png", "tex", *PROTOCOL)
TABLE = {f"results/table2.{suffix}" for suffix in LAID_OUT}
COST = {f"results/cost.{suffix}" for suffix in LAID_OUT}
TABLES = TABLE | COST

STUDY = ("results/table3.csv", "results/table4.csv", "results/figure2.pdf")
TASKS = ("hellaswag", "lambada_openai")
TABLE3 = {f"results/table3.{suffix}" for suffix in LAID_OUT}
TABLE4 = {f"results/table4.{suffix}" for suffix in LAID_OUT}
FIGURE2 = {f"results/figure2.{suffix}" for suffix in ("csv", "json", "pdf", "png", *PROTOCOL)} | {
    "results/figure2-correlation.csv"
}

# Stands for altq/__main__.py, which belongs to no stage's code.
WRITES_OUTPUTS_ONLY = """
import sys
from pathlib import Path

command, output = sys.argv[1], Path(sys.argv[sys.argv.index("--output") + 1])
names = {
    "fetch-model": ["source.json"],
    "fetch-corpus": ["calibration.txt", "test.txt", "source.json"],
    "fetch-task": ["items.parquet", "source.json"],
    "states": ["states.json"],
    "calibrate": ["index.json"],
    "calibrate-end-to-end": ["index.json"],
    "assemble": ["quantization.json"],
    "search": ["scores.json"],
}
paths = [output / name for name in names.get(command, [])] or [output]
if command in ("tokens", "requests", "zero-shot"):
    paths.append(output.with_suffix(".json"))
if command.startswith(("table", "figure")) or command == "cost":
    paths += [output.with_suffix(suffix) for suffix in (".json", ".protocol.md", ".protocol.html")]
if command.startswith("table") or command == "cost":
    paths += [output.with_suffix(suffix) for suffix in (".md", ".png", ".tex")]
if command == "figure2":
    paths += [output.with_suffix(suffix) for suffix in (".png", ".csv")]
    paths.append(output.with_name("figure2-correlation.csv"))
for path in paths:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"stands for {path}")
"""


def perplexities(methods=METHODS, settings=SETTINGS):
    return {f"results/perplexity/made/{m}/{s}/gptq/seed0/pydoc.json" for m in methods for s in settings}


def accuracies(methods, tasks=TASKS):
    return {
        f"results/zero_shot/made/{m}/W3A3K2V2/gptq/seed0/{task}.{suffix}"
        for m in methods
        for task in tasks
        for suffix in ("json", "parquet")
    }


def checkpoints(methods=METHODS, settings=SETTINGS):
    return {f"results/checkpoints/made/{m}/{s}/gptq/seed0/quantization.json" for m in methods for s in settings}


def banks(names=(*END_TO_END, *UNIT_WISE), settings=SETTINGS):
    return {f"results/bank/made/{s}/seed0/{name}/index.json" for name in names for s in settings}


def selections(*policies):
    return {f"results/selections/made/{policy}.json" for policy in policies}


def measured(policy):
    """Scores of a policy and its selection."""
    place = "made/W3A3K2V2/seed0"
    return {f"results/scores/{place}/{policy}/scores.json", f"results/selections/{place}/{policy}.json"}


def assembled_and_evaluated(methods=METHODS, settings=SETTINGS):
    """What is made anew where only these methods' banks or selections are, and the tables."""
    return checkpoints(methods, settings) | perplexities(methods, settings) | TABLES


def learned():
    """What is made anew where the search is, and the tables that have the learned selection."""
    made = checkpoints(["learned"]) | perplexities(["learned"]) | accuracies(["learned"])
    return measured("learned") | made | TABLE4


FULL = {"results/perplexity/made/full/W16A16K16V16/none/seed0/pydoc.json"}
FULL_ZERO_SHOT = {
    f"results/zero_shot/made/full/W16A16K16V16/none/seed0/{task}.{suffix}"
    for task in TASKS
    for suffix in ("json", "parquet")
}
REQUESTS = {f"results/requests/made/{task}.{suffix}" for task in TASKS for suffix in ("json", "parquet")}
TEST_TOKENS = {"results/tokens/made/pydoc/test.npy", "results/tokens/made/pydoc/test.json"}


class Finished:
    """A copy of the project and a folder of results in which everything is up to date."""

    def __init__(self, project: Path, folder: Path, snakemake) -> None:
        self.root, self.results, self._snakemake = folder / "project", folder / "run", snakemake
        self.root.mkdir()
        for name in ("altq", "rules", "envs"):
            shutil.copytree(project / name, self.root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(project / "Snakefile", self.root)
        self.config = yaml.safe_load((project / "configs" / "smoke.yaml").read_text())

    def snakemake(self, *arguments: str, config: dict | None = None):
        file = self.root / "experiment.yaml"
        file.write_text(yaml.safe_dump(config or self.config))
        return self._snakemake("--configfile", file, *arguments, folder=self.results, root=self.root)

    def planned(self, config: dict | None = None, *targets: str) -> set[str]:
        """The outputs that a dry run would make for targets, or for the experiment."""
        result = self.snakemake("--dry-run", *targets, config=config)
        assert result.returncode == 0, result.stdout + result.stderr
        lines = re.findall(r"^ +output: (.+)$", result.stdout + result.stderr, re.MULTILINE)
        return {path for line in lines for path in line.split(", ")}

    def finish(self) -> None:
        (self.root / "altq" / "__main__.py").write_text(WRITES_OUTPUTS_ONLY)
        run = self.snakemake("--cores", "2", "all", *STUDY)
        assert run.returncode == 0, run.stdout + run.stderr

    def planned_after_edit(self, module: str, added: str, config: dict | None = None, *targets: str) -> set[str]:
        """The same after `added` is put at the end of a source file, which is then put back."""
        path = self.root / module
        before = path.read_text()
        path.write_text(before + added)
        try:
            return self.planned(config, *targets)
        finally:
            path.write_text(before)


@pytest.fixture(scope="module")
def finished(project, tmp_path_factory, snakemake):
    state = Finished(project, tmp_path_factory.mktemp("finished"), snakemake)
    state.finish()
    return state


def changed(finished, **sections):
    """The configuration with these keys; a section is extended."""
    config = dict(finished.config)
    for name, value in sections.items():
        config[name] = config.get(name, {}) | value if isinstance(value, dict) else value
    return config


def test_the_whole_experiment_is_planned_once_each(finished, tmp_path, snakemake):
    result = snakemake("--configfile", finished.root / "experiment.yaml", "--dry-run", folder=tmp_path)
    rules = Counter(re.findall(r"^(?:local)?rule (\w+):$", result.stdout + result.stderr, re.MULTILINE))
    assert rules["states"] == rules["fetch_model"] == rules["statistics"] == rules["table2"] == rules["cost"] == 1
    assert rules["calibrate"] == len(UNIT_WISE) and rules["calibrate_end_to_end"] == len(END_TO_END)
    assert rules["assemble"] == rules["perplexity"] == len(METHODS) and rules["perplexity_full"] == 1
    # identity, scaling, affine, rotation: methods share them, as affine shares its bank with adaptive.
    assert rules["select"] == 5  # and the heuristic


def test_a_finished_experiment_has_nothing_to_do(finished):
    result = finished.snakemake("--cores", "1")
    assert result.returncode == 0 and "Nothing to be done" in result.stdout + result.stderr


def test_which_states_are_stored_reruns_nothing(finished):
    assert finished.planned(changed(finished, calibration={"border_every": 2}), "all", *STUDY) == set()


def test_beta_reruns_the_heuristic_and_what_is_adaptive(finished):
    planned = finished.planned(changed(finished, selection={"heuristic": {"attention": {"beta": 0.2}}}))
    assert planned == selections("heuristic") | assembled_and_evaluated(["adaptive"])


def test_a_finished_study_has_nothing_to_do(finished):
    assert finished.planned(None, *STUDY) == set()


def test_the_search_s_options_rerun_the_search_and_what_is_learned(finished):
    planned = finished.planned(changed(finished, selection={"search": {"steps": 3}}), "all", *STUDY)
    assert planned == learned()


def test_held_out_windows_rerun_what_is_measured_on_them(finished):
    planned = finished.planned(changed(finished, selection={"held_out_windows": 5}), "all", *STUDY)
    tokens = {f"results/tokens/made/pydoc/held_out-seed0.{suffix}" for suffix in ("npy", "json")}
    assert planned == tokens | {"results/scores/made/W3A3K2V2/seed0/oracle/scores.json"} | FIGURE2


def test_another_candidate_needs_its_bank_and_leaves_the_others_alone(finished):
    candidates = {"candidates": ["affine", "rotation", "balance"]}
    planned = finished.planned(changed(finished, selection=candidates), "all", *STUDY)
    oracle = {"results/scores/made/W3A3K2V2/seed0/oracle/scores.json"} | FIGURE2
    assert planned == banks(["balance"]) | learned() | oracle


def test_code_of_the_search_reruns_what_is_learned(finished):
    planned = finished.planned_after_edit("altq/selection/learned.py", "\nADDED = 1\n", None, "all", *STUDY)
    assert planned == learned()


def test_evaluation_windows_rerun_evaluation(finished):
    planned = finished.planned(changed(finished, evaluation={"num_windows": 9}))
    assert planned == TEST_TOKENS | FULL | perplexities() | TABLE


def test_a_limit_asks_anew_and_calibrates_nothing(finished):
    planned = finished.planned(changed(finished, zero_shot={"limit": 6}), "all", *STUDY)
    methods = ["flatquant", "adaptive", "learned"]
    assert planned == REQUESTS | FULL_ZERO_SHOT | accuracies(methods) | TABLE3 | TABLE4


def test_a_new_task_is_asked_alone(finished):
    tasks = finished.config["tasks"] | {"piqa": {"made": 8}}
    planned = finished.planned(changed(finished, tasks=tasks), "results/table3.csv")
    items = {f"results/tasks/piqa/{name}" for name in ("items.parquet", "source.json")}
    requests = {f"results/requests/made/piqa.{suffix}" for suffix in ("json", "parquet")}
    full = {path.replace("hellaswag", "piqa") for path in FULL_ZERO_SHOT if "hellaswag" in path}
    assert planned == items | requests | full | accuracies(["flatquant", "adaptive"], ["piqa"]) | TABLE3


def test_how_items_differ_is_said_and_reruns_no_fetch(finished):
    tasks = {name: task | {"departure": "made"} for name, task in finished.config["tasks"].items()}
    assert finished.planned(changed(finished, tasks=tasks), "all", *STUDY) == TABLE3 | TABLE4


def test_another_reference_redraws_table_3(finished):
    planned = finished.planned(changed(finished, zero_shot={"reference": "adaptive"}), "all", *STUDY)
    assert planned == TABLE3


def test_our_recipe_leaves_the_baselines_alone(finished):
    planned = finished.planned(changed(finished, recipe={"steps": 3}))
    assert planned == banks(["affine", "rotation"]) | assembled_and_evaluated(OURS)


@pytest.mark.parametrize(
    ("baseline", "change"),
    [("smoothquant", {"smooth_alpha": 0.5}), ("spinquant", {"steps": 3}), ("flatquant", {"unit": "sublayer"})],
)
def test_a_baselines_recipe_reruns_that_baseline(finished, baseline, change):
    recipe = finished.config["baselines"].get(baseline, {}) | change
    planned = finished.planned(changed(finished, baselines={baseline: recipe}))
    assert planned == banks([baseline]) | assembled_and_evaluated([baseline])


def test_a_baselines_default_that_is_written_out_reruns_nothing(finished):
    assert finished.planned(changed(finished, baselines={"smoothquant": {"smooth_alpha": 0.85}})) == set()


def test_shards_split_the_banks_and_change_nothing_else(finished):
    planned = finished.planned(changed(finished, calibration={"shards": 3}))
    shards = {path.replace("index", f"shards/{n}-of-3") for path in banks(UNIT_WISE) for n in (1, 2, 3)}
    assert planned == shards | banks(UNIT_WISE) | assembled_and_evaluated(["smoothquant", "flatquant", *OURS])


def test_a_new_setting_runs_its_own_jobs(finished):
    new = ["W3A3K3V3"]
    planned = finished.planned(changed(finished, settings=[*SETTINGS, *new]))
    assert planned == banks(settings=new) | assembled_and_evaluated(settings=new)


def test_a_new_method_runs_its_own_jobs(finished):
    planned = finished.planned(changed(finished, methods=[*finished.config["methods"], "balance"]))
    assert planned == selections("balance") | banks(["balance"]) | assembled_and_evaluated(["balance"])


def test_a_method_less_redraws_the_tables(finished):
    methods = [method for method in finished.config["methods"] if method != "ostquant"]
    assert finished.planned(changed(finished, methods=methods)) == TABLES


def test_swapped_bit_widths_are_another_setting(finished):
    swapped = ["W2A3K2V3"]
    first = finished.planned(changed(finished, settings=["W3A3K2V2", "W3A2K2V3"]))
    second = finished.planned(changed(finished, settings=["W3A3K2V2", *swapped]))
    assert second == banks(settings=swapped) | assembled_and_evaluated(settings=swapped)
    assert first & second == TABLES


def test_a_note_redraws_tables_and_figures(finished):
    assert finished.planned(changed(finished, notes=["Another note."])) == TABLES
    assert finished.planned(changed(finished, notes=["Another note."]), *STUDY) == TABLE3 | TABLE4 | FIGURE2


@pytest.mark.parametrize(
    ("module", "tables"),
    [("report/table.py", TABLES), ("report/wording.py", set()), ("report/cost.py", COST)],
)
def test_code_of_the_report_redraws_the_tables(finished, module, tables):
    """Words of a protocol are parameters: an edit that changes none redraws nothing."""
    assert finished.planned_after_edit(f"altq/{module}", "\nADDED = 1\n") == tables


def test_code_of_end_to_end_calibration_reruns_its_banks(finished):
    planned = finished.planned_after_edit("altq/calibration/losses.py", "\nADDED = 1\n")
    assert planned == banks(END_TO_END) | assembled_and_evaluated(END_TO_END)


def test_code_of_calibration_by_unit_reruns_its_banks(finished):
    planned = finished.planned_after_edit("altq/calibration/fit.py", "\nADDED = 1\n")
    assert planned == banks(UNIT_WISE) | assembled_and_evaluated(["smoothquant", "flatquant", *OURS])


def test_the_two_ways_of_calibrating_do_not_import_each_other():
    by_unit, end_to_end = (
        {module.removeprefix("altq.calibration.") for module in stage_modules(command)}
        for command in ("calibrate", "calibrate_end_to_end")
    )
    assert {"by_unit", "unit", "fit"} <= by_unit - end_to_end
    assert {"end_to_end", "whole_model", "losses", "cayley_sgd"} <= end_to_end - by_unit


def test_code_of_a_transform_reruns_the_banks_and_what_follows(finished):
    # What has no affine transform is made anew too: the same code assembles and evaluates it.
    planned = finished.planned_after_edit("altq/transforms/affine.py", "\nADDED = 1\n")
    assert planned == banks() | assembled_and_evaluated() | FULL


def test_code_of_gptq_reruns_assembly_and_what_follows(finished):
    assert finished.planned_after_edit("altq/quantizers/gptq.py", "\nADDED = 1\n") == assembled_and_evaluated()


def test_a_method_that_is_added_to_the_code_runs_its_own_jobs(finished):
    added = '\nMETHODS["mine"] = Method("Mine", "rotation", {"rotation": "rotation"})\n'
    config = changed(finished, methods=[*finished.config["methods"], "mine"])
    planned = finished.planned_after_edit("altq/experiment/methods.py", added, config)
    assert planned == assembled_and_evaluated(["mine"])


def test_a_baseline_that_is_edited_in_the_code_reruns_that_baseline(finished):
    added = '\nQUAROT = BASELINES["quarot"] = QUAROT.model_copy(update={"cache_clip": 0.9})\n'
    planned = finished.planned_after_edit("altq/experiment/baselines.py", added)
    assert planned == banks(["quarot"]) | assembled_and_evaluated(["quarot"])


def test_comments_and_the_command_line_rerun_nothing(finished):
    assert finished.planned_after_edit("altq/runtime/files.py", "\n# A comment.\n") == set()
    assert finished.planned_after_edit("altq/cli.py", "\nADDED = 1\n") == set()


def test_what_is_asked_of_the_machine_reruns_nothing(finished):
    assert finished.planned_after_edit("altq/resources/machine.py", "\nADDED = 1\n") == set()
    shape = {"hidden_size": 96, "intermediate_size": 128, "num_heads": 4, "num_kv_heads": 2, "vocab_size": 512}
    models = {"made": finished.config["models"]["made"] | {"shape": shape}}
    assert finished.planned(changed(finished, models=models)) == set()
