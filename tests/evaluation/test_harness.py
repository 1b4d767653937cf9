"""Our models within lm-evaluation-harness, and its tasks over our data, against the harness alone."""

import json
import shutil
from pathlib import Path

import lm_eval
import pytest
import yaml
from lm_eval.models.huggingface import HFLM
from models_for_tests import tiny_config

from altq.checkpoint.quantized_model import load_model
from altq.evaluation.harness import HarnessModel, load_task
from altq.experiment.sources import TaskDescription
from altq.experiment.tasks import TASKS
from altq.sources.task import fetch_task

TASK_FILES = Path(lm_eval.__file__).parent / "tasks"
FILES = {
    "arc_challenge": "arc/arc_easy.yaml",  # which arc_challenge.yaml includes
    "arc_easy": "arc/arc_easy.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "lambada_openai": "lambada/lambada_openai.yaml",
    "piqa": "piqa/piqa.yaml",
    "winogrande": "winogrande/default.yaml",
}
ZERO_SHOT = Path(__file__).resolve().parents[2] / "../shared/data/zero_shot"


class WithFunctions(yaml.SafeLoader):
    """Reads the harness's `!function` as text."""


WithFunctions.add_constructor("!function", lambda loader, node: node.value)


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Made items of every task."""
    folder = tmp_path_factory.mktemp("tasks")
    for name in TASKS:
        fetch_task(name, TaskDescription(made=10), folder / name)
    return folder


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_evaluated_as_the_harness_evaluates_it(name, items):
    loaded = load_task(name, items / name, range(10)).config
    metrics = {metric["metric"] for metric in loaded.metric_list}
    assert TASKS[name].metric == ("acc_norm" if "acc_norm" in metrics else "acc")
    own = yaml.load((TASK_FILES / FILES[name]).read_text(), WithFunctions)
    # The harness evaluates the test split where a task has one.
    evaluated = own.get("test_split") or own["validation_split"]
    assert evaluated == TASKS[name].split
    assert (loaded.test_split or loaded.validation_split) == evaluated


@pytest.mark.parametrize("name", TASKS)
def test_the_harness_gets_from_our_model_what_it_gets_from_its_own(name, items, made_model):
    model = load_model(made_model)
    scores = []
    for harness_model in (HarnessModel(model, made_model), HFLM(model, tokenizer=str(made_model), batch_size=3)):
        found = lm_eval.evaluate(
            lm=harness_model, task_dict={name: load_task(name, items / name, range(10))}, bootstrap_iters=0
        )
        samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
        scores.append(
            (
                {key: value for key, value in found["results"][name].items() if key.startswith("acc")},
                [[float(value) for value, _ in sample["resps"][0]] for sample in samples]
                if name == "lambada_openai"
                else [[float(resp[0][0]) for resp in sample["resps"]] for sample in samples],
            )
        )
    (ours, our_sums), (theirs, their_sums) = scores
    assert ours == theirs
    for mine, other in zip(our_sums, their_sums, strict=True):
        assert mine == pytest.approx(other, rel=1e-4, abs=1e-4)


def test_encoding_needs_no_weights(items, made_model):
    task = load_task("winogrande", items / "winogrande", range(10))
    task.build_all_requests()
    bare, whole = HarnessModel.without_weights(made_model), HarnessModel(load_model(made_model), made_model)
    assert bare.encode(task.instances) == whole.encode(task.instances)
    assert bare.max_length == whole.max_length


@pytest.fixture
def gemma(made_model, tmp_path):
    """A folder that only encodes, with a tokenizer that has a token to begin a text and does not use it by itself."""
    folder = tmp_path / "gemma"
    shutil.copytree(made_model, folder)
    tiny_config("gemma3_text", vocab_size=512).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"bos_token": content["eos_token"]}))
    return folder


def test_contexts_begin_where_the_family_is_evaluated_so(items, made_model, gemma):
    task = load_task("piqa", items / "piqa", range(3))
    task.build_all_requests()
    plain, begun = (HarnessModel.without_weights(folder).encode(task.instances) for folder in (made_model, gemma))
    assert [request.context for request in begun] == [[0, *request.context] for request in plain]
    assert [request.continuation for request in begun] == [request.continuation for request in plain]
    model = HarnessModel.without_weights(gemma)
    assert model.tok_encode("a", False) == model.tok_encode("a")[1:] and model.tok_encode("a")[0] == 0


def test_a_tokenizer_without_the_token_that_a_family_needs_is_refused(gemma, made_model):
    shutil.copy(made_model / "tokenizer_config.json", gemma)
    with pytest.raises(ValueError, match="no token that begins a text, without which models of type gemma3_text"):
        HarnessModel.without_weights(gemma)


def test_items_of_another_task_are_refused(items):
    with pytest.raises(ValueError, match=r"are not those that hellaswag reads .*correct the source of this task"):
        load_task("hellaswag", items / "winogrande", range(3))


@pytest.mark.skipif(not ZERO_SHOT.is_dir(), reason="no shared data")
@pytest.mark.parametrize("name", TASKS)
def test_real_items_are_asked_as_the_harness_asks(name, tmp_path):
    fetch_task(name, TaskDescription(path=str(ZERO_SHOT)), tmp_path)
    task = load_task(name, tmp_path, [0, 1, 2])
    task.build_all_requests()
    first = task.instances[0]
    asked = {
        "arc_challenge": ("Question: An astronomer observes", " Planetary density will decrease."),
        "arc_easy": ("Question: Which statement best explains", " Sunlight is the source of energy"),
        "hellaswag": ("Roof shingle removal: A man is sitting on a roof. He", " is using wrap to wrap a pair of skis."),
        "lambada_openai": ("In my palm is a clear stone", " signs"),
        "piqa": ("Question: How do I ready a guinea pig cage", " Provide the guinea pig"),
        "winogrande": ("Sarah was a much better surgeon than Maria so Sarah", " always got the easier cases."),
    }[name]
    context, continuation = first.args
    assert context.startswith(asked[0]) and continuation.startswith(asked[1]), json.dumps(first.args)
