"""One command from a model to a checkpoint, by the real workflow: stopped, called again, used; then compared."""

import json
import os
import signal
import subprocess
import time
from pydoc_data.topics import topics

import pytest
import yaml

from altq.experiment.sources import ModelDescription
from altq.sources.model import fetch_model

pytestmark = pytest.mark.slow

TEMPLATE = "{% for turn in messages %}<{{ turn['role'] }}> {{ turn['content'] }}\n{% endfor %}"
LOAD = """
import sys, altq.integration
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
print(model.generate(**tokenizer("The", return_tensors="pt"), max_new_tokens=4, min_new_tokens=4, pad_token_id=0).shape)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model and chats."""
    folder = tmp_path_factory.mktemp("newcomer")
    fetch_model(ModelDescription(made={"seed": 3}, num_blocks=2), folder / "mine")
    (folder / "mine" / "source.json").unlink()
    (folder / "mine" / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "mine" / "README.md").write_text("---\nlicense: mit\n---\n")
    rows = [[{"role": "user", "content": title}, {"role": "assistant", "content": topics[title]}] for title in topics]
    (folder / "chats.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def command(place, preloaded, project):
    """The command in that folder, its environment, and how processes are started with both."""
    flags = ["--settings", "W4A4K4V4,W3A3K2V2", "--text", "chats.jsonl", "--window-length", 48, "--windows", 4]
    words = [preloaded, "-P", "-m", "altq", "quantize", "mine", *flags, "--output", "out", "--cores", 2]
    return [str(word) for word in words], {"cwd": place, "env": os.environ | {"PYTHONPATH": str(project)}}


def test_a_stopped_call_goes_on_when_it_is_given_again(place, command, altq, run_python):
    words, options = command
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
    results = place / "out.run/results"
    deadline = time.monotonic() + 300
    while not any(results.glob("bank/mine/*/seed0/*/sublayer_*.safetensors")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 143 and error.endswith("altq: stopped; run again to go on from there\n"), error
    assert "minutes each" in out and not (place / "out").exists()
    states = results / "states/mine/seed0/states.json"
    made = states.stat().st_mtime_ns

    ended = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert states.stat().st_mtime_ns == made, "what was done is not done again"
    assert "fetch_model" not in ended.stdout and "calibrate" in ended.stdout, "the plan is of what is left"
    for setting in ("W4A4K4V4", "W3A3K2V2"):
        row = next(line for line in ended.stdout.splitlines() if line.startswith(f"{setting}  "))
        assert row.count(" to ") == 2 and " MB" in row
    assert ended.stdout.count("altq generate --folder") == 1

    again = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    assert again.returncode == 0 and "All is done already." in again.stdout


def test_what_it_made_is_used_and_says_what_it_is(place, run_python, altq):
    folder = place / "out" / "W4A4K4V4"
    card = (folder / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["license"] == "mit" and "| chats | " in card and str(place) not in card
    loaded = run_python("-P", "-c", LOAD, folder, folder=place)
    assert loaded.stdout.strip().endswith("5])"), loaded.stderr[-2000:]
    # The text was written out by the tokenizer's own template.
    tokens = json.loads((place / "out.run/results/tokens/mine/chats/test.json").read_text())
    assert tokens["split"] == "test" and tokens["num_windows"] >= 2


def test_two_of_them_are_compared(place, altq):
    ended = altq(
        "compare", "mine", "out/W4A4K4V4", "--text", "chats.jsonl", "--windows", 3, "--window-length", 48, folder=place
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    ratio = next(line for line in ended.stdout.splitlines() if line.startswith("B  "))
    assert ratio.count(" to ") == 2
    assert "of 141 places." in ended.stdout and "Tokens a second: A " in ended.stdout
