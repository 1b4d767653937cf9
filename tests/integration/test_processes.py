"""Checkpoints in processes of their own: stock transformers fails without altq, the harness's command line scores."""

import json

import lm_eval
import numpy as np
import pytest
from lm_eval.tasks import TaskManager
from models_for_tests import write_selection

from altq.calibration.recording import record_states
from altq.checkpoint.assembly import assemble
from altq.checkpoint.quantized_model import load_model
from altq.checkpoint.scheme import Scheme
from altq.evaluation.harness import HarnessModel
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.experiment.sources import ModelDescription
from altq.runtime.files import write_text
from altq.selection.selection import Selection
from altq.sources.model import fetch_model

LOAD = """
import sys
from transformers import AutoModelForCausalLM
try:
    AutoModelForCausalLM.from_pretrained(sys.argv[1])
finally:
    print([name for name in sys.modules if name.split(".")[0] == "altq"])
"""

TASK = """
task: {task}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {texts}}}}}
test_split: test
output_type: {kind}
doc_to_text: {asked}
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: {metric}}}]
"""
TEXTS = ["The city of a river is old.", "They took the train and went home to the house by the water. " * 40, "So"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint with a tokenizer, of a made model."""
    folder = tmp_path_factory.mktemp("processes")
    fetch_model(ModelDescription(made={"seed": 3}, num_blocks=2), folder / "model")
    tokens = np.random.default_rng(0).integers(0, 256, (4, 16), dtype=np.int32)
    record_states(folder / "model", tokens, loss="relative", folder=folder / "states", fingerprint="test")
    selection = Selection.read(write_selection(["identity"] * 4, folder / "selection.json"))
    scheme = Scheme(selection, setting=Setting(4, 4, 4, 4), rounding=RoundingOptions(weights="rtn", windows=4))
    assemble(folder / "model", folder / "states", scheme, folder / "checkpoint", fingerprint="test")
    return folder / "checkpoint"


@pytest.fixture
def tasks(tmp_path):
    """A folder with a task of rolling log-likelihoods and one of generated text."""
    texts = tmp_path / "texts.jsonl"
    write_text(texts, "".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    for task, kind, asked, metric in (
        ("altq_rolling", "loglikelihood_rolling", '""', "byte_perplexity"),
        ("altq_until", "generate_until", '"{{text}}"', "exact_match"),
    ):
        write_text(
            tmp_path / f"{task}.yaml", TASK.format(task=task, kind=kind, asked=asked, metric=metric, texts=texts)
        )
    with open(tmp_path / "altq_until.yaml", "a") as file:
        file.write("generation_kwargs: {until: ['!'], max_gen_toks: 6, do_sample: false}\n")
    return tmp_path


def test_without_altq_transformers_refuses_a_checkpoint(checkpoint, run_python, tmp_path):
    result = run_python("-P", "-c", LOAD, checkpoint, folder=tmp_path)
    assert result.returncode == 1 and "no file named model.safetensors" in result.stderr
    assert result.stdout.strip() == "[]", "altq was never imported"


def test_the_harness_command_line_scores_a_checkpoint_as_altq_does(checkpoint, tasks, run_python):
    """Rolling log-likelihoods and generated text, by `--model hf` in a process of its own and by our HarnessModel."""
    names = ["altq_rolling", "altq_until"]
    result = run_python(
        "-P", "-m", "altq.integration", "run", "--model", "hf", "--model_args", f"pretrained={checkpoint}",
        "--include_path", tasks, "--tasks", *names, "--device", "cpu", "--output_path", tasks / "out", "--log_samples",
        folder=tasks,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    (scores,) = (tasks / "out").rglob("results_*.json")
    theirs = json.loads(scores.read_text())["results"]
    found = lm_eval.simple_evaluate(
        HarnessModel(load_model(checkpoint), checkpoint), tasks=names, log_samples=True, bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
    )  # fmt: skip
    ours = found["results"]["altq_rolling"]["byte_perplexity,none"]
    assert ours == pytest.approx(theirs["altq_rolling"]["byte_perplexity,none"], rel=1e-4)
    made = {}
    for path in (tasks / "out").rglob("samples_altq_until_*.jsonl"):
        made = {sample["doc_id"]: sample["resps"] for sample in map(json.loads, path.read_text().splitlines())}
    assert made == {sample["doc_id"]: sample["resps"] for sample in found["samples"]["altq_until"]} and len(made) == 3
    assert any(text for ((text,),) in made.values())
