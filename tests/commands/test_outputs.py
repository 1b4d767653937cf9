"""What a command writes is apart from all that it reads, and its own files from each other."""

import json
import re
import shlex
from pathlib import Path

import pytest

from altq.cli import COMMANDS, command_parser, main
from altq.commands.outputs import refuse_collisions, refuse_overwriting

OF = "--folder f"
STATES = "--model m --states s --setting W4A4K4V4 --seed 0"


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """Folders and files with the names that the commands below read; all stay as they are, and nothing is added."""
    monkeypatch.chdir(tmp_path)
    for name in ("f", "m", "s", "i"):
        Path(name).mkdir()
    for name in ("f/config.json", "m/config.json", "s/tokens.npy", "r.parquet", "r.json", "t.npy", "x.json", "a.json"):
        Path(name).write_text("{}")
    Path("link").symlink_to("m")
    Path("link.json").symlink_to("x.json")
    before = sorted(tmp_path.rglob("*"))
    yield
    assert sorted(tmp_path.rglob("*")) == before
    assert all(path.read_text() == "{}" for path in before if path.is_file())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        # One file of it over another.
        (f"zero-shot {OF} --task piqa --items i --requests r.parquet --output y.json", "is to end in .parquet"),
        ("requests --model m --task piqa --items i --seed 0 --output y.json", "is to end in .parquet"),
        ("tokens --model m --corpus i --split test --window-length 8 --output y.json", "is to end in .npy"),
        ("table1 --results x.json --output y.json", "is to end in .csv"),
        ("table2 --results x.json --output y.md", "is to end in .csv"),
        ("figure1 --statistics x.json --selections a.json --output y.csv", "is to end in .pdf"),
        ("cost --checkpoints f --output y.json", "is to end in .csv"),
        ("benchmark --output y.json", "is to end in .csv"),
        ("compiled --output y", "is to end in .csv"),
        # Over what is read, or into it.
        (
            f"zero-shot {OF} --task piqa --items i --requests r.parquet --output r.parquet",
            "r.parquet .* is an input, too",
        ),
        (f"perplexity {OF} --tokens t.npy --output t.json", "named like the input t.npy"),
        (f"perplexity {OF} --tokens t.npy --output f/config.json", "lies in the input folder f"),
        ("table2 --results a.json x.json --output x.csv", "named like the input x.json"),
        ("distinct --selections a.json x.json --output x.json", "is an input, too"),
        ("select --policy oracle --scores x.json --output ./m/../x.json", "is an input, too"),
        (f"calibrate {STATES} --kind affine --output s", "is an input, too"),
        (f"calibrate {STATES} --kind affine --output s/bank", "lies in the input folder s"),
        ("states --model m --tokens s/tokens.npy --loss mse --output s", "holds the input s/tokens.npy"),
        (
            "assemble --model m --states s --setting W4A4K4V4 --selection x.json --banks i --output i",
            "is an input",
        ),
        (
            "reconstruction --model m --tokens t.npy --setting W4A4K4V4 --loss mse --banks i --output i/e.json",
            "input folder i",
        ),
        # Sources, which fetching would delete.
        ("fetch-model --source '{path: m, num_blocks: 2}' --output m", "is an input, too"),
        ("fetch-model --source '{path: m, num_blocks: 2}' --output m/again", "lies in the input folder m"),
        ("fetch-task --task piqa --source '{path: i}' --output i", "is an input, too"),
    ],
)
def test_a_collision_is_refused_before_any_work(inputs, capsys, words, said):
    assert main(shlex.split(words)) == 1
    message = capsys.readouterr().err
    assert message.startswith("altq: ") and re.search(said, message) and message.count("\n") == 1


def test_links_are_seen_through(inputs, capsys):
    assert main(["fetch-model", "--source", "{path: link, num_blocks: 2}", "--output", "m"]) == 1
    assert main(["distinct", "--selections", "link.json", "--output", "x.json"]) == 1
    assert capsys.readouterr().err.count("is an input, too") == 2


def test_corpora_of_two_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("c").mkdir()
    for name in ("calibration.txt", "test.txt"):
        Path("c", name).write_text("text")
    source = "{paths: {calibration: c/calibration.txt, test: c/test.txt}}"
    assert main(["fetch-corpus", "--source", source, "--output", "c"]) == 1
    assert "holds the input c/calibration.txt" in capsys.readouterr().err


def test_what_is_apart_is_accepted(tmp_path):
    results = tmp_path / "results"
    (results / "states").mkdir(parents=True)
    refuse_overwriting([results / "bank"], [results / "states", results / "tokens.npy"])
    refuse_overwriting([results / "table2.csv", results / "table2.json"], [results / "states"])


def test_shards_lie_in_the_bank_that_they_are_of(tmp_path):
    words = f"{STATES} --kind affine --shards {tmp_path}/shards/1-of-1.json --output {tmp_path}"
    refuse_collisions(command_parser("calibrate").parse_args(words.split()))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_with_an_output_says_what_lies_beside_it(command):
    parser = command_parser(command)
    if any("--output" in action.option_strings for action in parser._actions):
        assert {"suffix", "beside", "own"} <= parser._defaults.keys()


def test_what_is_said_to_lie_beside_an_output_is_what_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = []
    for method in ("full", "rtn"):
        content = {
            "method": method, "model": "m", "corpus": "c", "setting": "W4A4K4V4", "weights": "gptq", "seed": 0,
            "perplexity": 9.0, "perplexity_low": 8.0, "perplexity_high": 10.0, "num_windows": 2, "window_length": 8,
            "num_tokens": 14, "nll": [15.0, 16.0], "provenance": {},
        }  # fmt: skip
        path = Path(f"{method}.json")
        path.write_text(json.dumps(content))
        results.append(str(path))
    words = ["table2", "--results", *results, "--output", "out/table.csv"]
    arguments = command_parser(words[0]).parse_args(words[1:])
    assert main(words) == 0
    assert {path.name for path in Path("out").iterdir()} == {"table.csv", *(f"table{end}" for end in arguments.beside)}
