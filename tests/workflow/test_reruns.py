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

SETTINGS = ("W4A4K4V4", "W3A3K2V2")
METHODS = ("rtn", "affine", "rotation", "adaptive")
TABLE = {f"results/table2.{suffix}" for suffix in ("csv", "json", "md", "png", "tex")}

# Stands for altq/__main__.py, which belongs to no stage's code.
WRITES_OUTPUTS_ONLY = '''
import sys
from pathlib import Path

command, output = sys.argv[1], Path(sys.argv[sys.argv.index("--output") + 1])
names = {
    "fetch-model": ["source.json"],
    "fetch-corpus": ["calibration.txt", "test.txt", "source.json"],
    "states": ["states.json"],
    "calibrate": ["index.json"],
    "assemble": ["quantization.json"],
}
paths = [output / name for name in names.get(command, [])] or [output]
if command == "tokens":
    paths.append(output.with_suffix(".json"))
if command == "table2":
    paths += [output.with_suffix(suffix) for suffix in (".json", ".md", ".png", ".tex")]
for path in paths:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"stands for {path}")
'''


def perplexities(methods=METHODS, settings=SETTINGS):
    return {f"results/perplexity/made/{m}/{s}/gptq/seed0/pydoc.json" for m in methods for s in settings}


def checkpoints(methods=METHODS, settings=SETTINGS):
    return {f"results/checkpoints/made/{m}/{s}/gptq/seed0/quantization.json" for m in methods for s in settings}


def banks(settings=SETTINGS):
    return {f"results/bank/made/{s}/seed0/{kind}/index.json" for s in settings for kind in ("affine", "rotation")}


FULL = {"results/perplexity/made/full/W16A16K16V16/none/seed0/pydoc.json"}
HEURISTIC = {"results/selections/made/heuristic.json"}
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

    def planned(self, config: dict | None = None) -> set[str]:
        """The outputs that a dry run would make."""
        result = self.snakemake("--dry-run", config=config)
        assert result.returncode == 0, result.stdout + result.stderr
        lines = re.findall(r"^ +output: (.+)$", result.stdout + result.stderr, re.MULTILINE)
        return {path for line in lines for path in line.split(", ")}

    def finish(self) -> None:
        (self.root / "altq" / "__main__.py").write_text(WRITES_OUTPUTS_ONLY)
        run = self.snakemake("--cores", "2")
        assert run.returncode == 0, run.stdout + run.stderr

    def planned_after_edit(self, module: str, added: str) -> set[str]:
        """The same after `added` is put at the end of a source file, which is then put back."""
        path = self.root / module
        before = path.read_text()
        path.write_text(before + added)
        try:
            return self.planned()
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
    assert rules["states"] == rules["fetch_model"] == rules["statistics"] == rules["table2"] == 1
    assert rules["calibrate"] == 4 and rules["assemble"] == rules["perplexity"] == 8
    assert rules["select_by_heuristic"] == 1 and rules["select_one_kind"] == 3


def test_a_finished_experiment_has_nothing_to_do(finished):
    result = finished.snakemake("--cores", "1", "results/table2.csv")
    assert result.returncode == 0 and "Nothing to be done" in result.stdout + result.stderr


def test_beta_reruns_the_heuristic_and_what_is_adaptive(finished):
    planned = finished.planned(changed(finished, selection={"attention": {"beta": 0.2}}))
    assert planned == HEURISTIC | checkpoints(["adaptive"]) | perplexities(["adaptive"]) | TABLE


def test_evaluation_windows_rerun_evaluation(finished):
    planned = finished.planned(changed(finished, evaluation={"num_windows": 9}))
    assert planned == TEST_TOKENS | FULL | perplexities() | TABLE


def test_the_recipe_reruns_the_bank_and_what_follows(finished):
    calibrated = ("affine", "rotation", "adaptive")
    planned = finished.planned(changed(finished, recipe={"steps": 3}))
    assert planned == banks() | checkpoints(calibrated) | perplexities(calibrated) | TABLE


def test_a_new_setting_runs_its_own_jobs(finished):
    new = ["W3A3K3V3"]
    planned = finished.planned(changed(finished, settings=[*SETTINGS, *new]))
    assert planned == banks(new) | checkpoints(settings=new) | perplexities(settings=new) | TABLE


def test_swapped_bit_widths_are_another_setting(finished):
    swapped = ["W2A3K2V3"]
    first = finished.planned(changed(finished, settings=["W4A4K4V4", "W3A2K2V3"]))
    second = finished.planned(changed(finished, settings=["W4A4K4V4", *swapped]))
    assert second == banks(swapped) | checkpoints(settings=swapped) | perplexities(settings=swapped) | TABLE
    assert first & second == TABLE


def test_a_note_reruns_the_table(finished):
    assert finished.planned(changed(finished, notes=["Another caption."])) == TABLE


def test_code_of_the_report_reruns_the_table(finished):
    assert finished.planned_after_edit("altq/report/table.py", "\nADDED = 1\n") == TABLE


def test_code_of_a_transform_reruns_the_bank_and_what_follows(finished):
    # What has no affine transform is made anew too: the same code assembles and evaluates it.
    planned = finished.planned_after_edit("altq/transforms/affine.py", "\nADDED = 1\n")
    assert planned == banks() | checkpoints() | perplexities() | FULL | TABLE


def test_comments_and_the_command_line_rerun_nothing(finished):
    assert finished.planned_after_edit("altq/files.py", "\n# A comment.\n") == set()
    assert finished.planned_after_edit("altq/cli.py", "\nADDED = 1\n") == set()
