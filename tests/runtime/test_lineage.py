"""Inputs of different descent, and files that are not what was written, are refused by every command that combines.

Two models of the same name and shape, so that nothing but hashes tells them apart.
"""

import json
import logging
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from stopped_for_tests import Stopped

from altq.checkpoint.quantized_model import QuantizedSkeleton
from altq.cli import main
from altq.runtime.files import read_json, write_json
from altq.runtime.lineage import lineage, result_lineage

SETTING, OTHER = "W4A4K4V4", "W3A3K3V3"
MADE = {"hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "num_kv_heads": 2, "vocab_size": 512}
RECIPE = "--steps 0 --start balance"


def run(line, *more):
    return main([*line.split(), *map(str, more)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders `a` and `b`, each with a model called `made` and what is made from it."""
    folder = tmp_path_factory.mktemp("lineage")
    corpus = folder / "pydoc"
    assert run(f"fetch-corpus --output {corpus} --source", json.dumps({"module": "pydoc_data.topics"})) == 0
    for seed, name in enumerate("ab"):
        at = folder / name
        source = json.dumps({"made": MADE | {"seed": seed}, "num_blocks": 2})
        assert run(f"fetch-model --output {at}/made --source", source) == 0
        tokens = f"tokens --model {at}/made --corpus {corpus} --window-length 16"
        assert run(f"{tokens} --split test --num-windows 4 --output {at}/test.npy") == 0
        for k in (0, 1):
            calibration = f"{tokens} --split calibration --num-windows 4 --seed {k}"
            assert run(f"{calibration} --output {at}/calibration{k}.npy") == 0
            assert run(f"{calibration} --held-out 2 --output {at}/held_out{k}.npy") == 0
            begun = read_json(at / f"held_out{k}.json") | {"bos": "window"}
            write_json(at / f"begun{k}.json", begun)
            shutil.copy(at / f"held_out{k}.npy", at / f"begun{k}.npy")
            states = f"states --model {at}/made --tokens {at}/calibration{k}.npy --loss mse --output {at}/states{k}"
            assert run(states) == 0
        assert run(f"statistics --model {at}/made --output {at}/statistics.json") == 0
        heuristic = f"select --policy heuristic --statistics {at}/statistics.json --output {at}/heuristic.json"
        assert run(heuristic, "--attention", '{"count": 1}', "--ffn", '{"count": 1}') == 0
        affine = f"select --policy affine --model-name made --num-blocks 2 --output {at}/affine.json"
        assert run(affine) == 0
        for k, setting in ((0, SETTING), (1, SETTING), (0, OTHER)):
            for kind in ("affine", "rotation"):
                out = f"{at}/bank/{setting}/{k}/{kind}"
                calibrate = (
                    f"calibrate --model {at}/made --states {at}/states{k} --setting {setting} --kind {kind} --seed {k}"
                )
                assert run(f"{calibrate} {RECIPE} --output {out}") == 0
        out = at / f"checkpoints/made/affine/{SETTING}/rtn/seed0"
        assert run(assemble(at), "--output", out) == 0
        assert run(perplexity(at), "--output", at / "affine-pydoc.json") == 0
        assert run(full(at), "--output", at / "full-pydoc.json") == 0
        items = json.dumps({"made": 8 + seed})
        assert run(f"fetch-task --task hellaswag --output {at}/items --source", items) == 0
        asked = f"requests --model {at}/made --task hellaswag --items {at}/items --seed 0"
        assert run(f"{asked} --output {at}/requests.parquet") == 0
    return folder


def assemble(at, model=None, states=None, bank=None, selection=None, setting=SETTING, seed=0):
    bank, states = bank or f"{at}/bank/{SETTING}/0/affine", states or f"{at}/states0"
    return (
        f"assemble --model {model or at}/made --states {states} --setting {setting} --weights rtn --banks {bank} "
        f"--selection {selection or f'{at}/affine.json'} --seed {seed}"
    )


def perplexity(at, tokens=None):
    folder = f"{at}/checkpoints/made/affine/{SETTING}/rtn/seed0"
    return f"perplexity --folder {folder} --tokens {tokens or f'{at}/test.npy'}"


def full(at, tokens=None):
    return f"perplexity --folder {at}/made --tokens {tokens or f'{at}/test.npy'}"


def calibrate(command, model, states, more=""):
    return f"{command} --model {model}/made --states {states}/states0 --setting {SETTING} --seed 0 {more}"


def reconstruction(a, *, tokens=None, first=None, second=None, setting=SETTING):
    affine, rotation = first or f"{a}/bank/{SETTING}/0/affine", second or f"{a}/bank/{SETTING}/0/rotation"
    return (
        f"reconstruction --model {a}/made --tokens {tokens or f'{a}/held_out0.npy'} --banks {affine} {rotation} "
        f"--setting {setting} --loss mse"
    )


def zero_shot(at, requests=None, items=None):
    folder = f"{at}/checkpoints/made/affine/{SETTING}/rtn/seed0"
    asked = f"--items {items or f'{at}/items'} --requests {requests or f'{at}/requests.parquet'}"
    return f"zero-shot --folder {folder} --task hellaswag {asked}"


def refine(a, model=None, tokens=None, held_out=None):
    checkpoint = f"{a}/checkpoints/made/affine/{SETTING}/rtn/seed0"
    return (
        f"refine --model {model or a}/made --checkpoint {checkpoint} --tokens {tokens or f'{a}/calibration0.npy'} "
        f"--held-out {held_out or f'{a}/held_out0.npy'} --steps 2 --windows-per-step 2 --judged-every 1"
    )


def best_random(a, b):
    results = f"{a}/affine-pydoc.json {b}/affine-pydoc.json"
    return f"select --policy best_random --results {results} --selections {a}/affine.json"


def cost(a, b):
    return "cost --checkpoints " + " ".join(f"{at}/checkpoints/made/affine/{SETTING}/rtn/seed0" for at in (a, b))


CANDIDATES = "--candidates affine rotation"
MIXES = {
    "states of tokens of another model": (
        "model",
        lambda a, b: f"states --model {a}/made --tokens {b}/calibration0.npy --loss mse",
    ),
    "calibration on states of another model": (
        "model",
        lambda a, b: calibrate("calibrate", a, b, f"--kind affine {RECIPE}"),
    ),
    "end to end on states of another model": (
        "model",
        lambda a, b: calibrate("calibrate-end-to-end", a, b, "--steps 0 --trained []"),
    ),
    "search on states of another model": ("model", lambda a, b: calibrate("search", a, b, f"{CANDIDATES} {RECIPE}")),
    "prediction from states of another model": (
        "model",
        lambda a, b: calibrate("predict", a, b, f"{CANDIDATES} {RECIPE}"),
    ),
    "reconstruction on tokens of another model": ("model", lambda a, b: reconstruction(a, tokens=f"{b}/held_out0.npy")),
    "reconstruction of a bank of another model": (
        "model",
        lambda a, b: reconstruction(a, second=f"{b}/bank/{SETTING}/0/rotation"),
    ),
    "reconstruction of a bank of other states": (
        "(calibration|seed)",
        lambda a, b: reconstruction(a, second=f"{a}/bank/{SETTING}/1/rotation"),
    ),
    "reconstruction on windows that another seed left out": (
        "seed of the windows",
        lambda a, b: reconstruction(a, tokens=f"{a}/held_out1.npy"),
    ),
    "reconstruction on windows that begin otherwise": (
        "beginning of the windows",
        lambda a, b: reconstruction(a, tokens=f"{a}/begun0.npy"),
    ),
    "reconstruction of a bank of another setting": (
        "setting",
        lambda a, b: reconstruction(a, first=f"{a}/bank/{OTHER}/0/affine"),
    ),
    "assembly with states of another model": ("model", lambda a, b: assemble(a, states=f"{b}/states0")),
    "assembly with a bank of another model": ("model", lambda a, b: assemble(a, bank=f"{b}/bank/{SETTING}/0/affine")),
    "assembly with a bank of other states": (
        "calibration states",
        lambda a, b: assemble(a, bank=f"{a}/bank/{SETTING}/1/affine"),
    ),
    "assembly with a bank of another setting": ("setting", lambda a, b: assemble(a, bank=f"{a}/bank/{OTHER}/0/affine")),
    "assembly under the name of another seed": ("calibration seed", lambda a, b: assemble(a, seed=1)),
    "assembly of a selection by another model's statistics": (
        "model",
        lambda a, b: assemble(a, selection=f"{b}/heuristic.json"),
    ),
    "refinement to another model": ("model", lambda a, b: refine(a, model=b)),
    "refinement on tokens of another model": ("model", lambda a, b: refine(a, tokens=f"{b}/calibration0.npy")),
    "refinement judged by windows that another seed left out": (
        "seed of the windows",
        lambda a, b: refine(a, held_out=f"{a}/held_out1.npy"),
    ),
    "perplexity over tokens of another model": ("model", lambda a, b: perplexity(a, tokens=f"{b}/test.npy")),
    "perplexity in full precision over tokens of another model": (
        "model",
        lambda a, b: full(a, tokens=f"{b}/test.npy"),
    ),
    "packed perplexity over tokens of another model": (
        "model",
        lambda a, b: perplexity(a, tokens=f"{b}/test.npy").replace("perplexity", "perplexity-packed", 1),
    ),
    "accuracy over requests of another model": ("model", lambda a, b: zero_shot(a, requests=f"{b}/requests.parquet")),
    "accuracy judged by other items": ("items", lambda a, b: zero_shot(a, items=f"{b}/items")),
    "the best of perplexities of two models": ("model", best_random),
    "a table of two models of one name": (
        "model made",
        lambda a, b: f"table2 --results {a}/full-pydoc.json {b}/affine-pydoc.json",
    ),
    "selections of two models": ("model", lambda a, b: f"distinct --selections {a}/heuristic.json {b}/heuristic.json"),
    "the cost of two models of one name": ("model made", cost),
}


@pytest.mark.parametrize("name", MIXES)
def test_a_mix_is_refused_in_one_message(made, tmp_path, capsys, name):
    differs, line = MIXES[name]
    command = line(made / "a", made / "b")
    output = tmp_path / ("out.parquet" if command.startswith("zero-shot") else "out.csv")
    assert run(command, "--output", output) == 1
    (message,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("altq: "))
    assert " do not go together: the " in message and "again for it" in message
    assert re.search(rf"the {differs}[^:]* of the first is", message), message
    assert not output.exists()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (lambda a: assemble(a, bank=f"{a}/bank/{SETTING}/0/rotation"), "names affine, but no such bank is given"),
        (lambda a: reconstruction(a, first=f"{a}/bank/{SETTING}/0/rotation"), "both hold rotation; give one of them"),
    ],
)
def test_a_bank_is_of_the_kind_that_its_index_says(made, tmp_path, capsys, line, reason):
    assert run(line(made / "a"), "--output", tmp_path / "out.csv") == 1
    assert reason in refusal(capsys) and not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("label", [{"setting": OTHER}, {"weights": "gptq"}, {"seed": 1}, {"method": "rotation"}])
@pytest.mark.parametrize("line", [perplexity, zero_shot])
def test_a_checkpoint_under_the_name_of_another_is_refused(made, tmp_path, capsys, line, label):
    a = copy(made, tmp_path)
    (path,) = (a / "checkpoints").rglob("quantization.json")
    write_json(path, json.loads(path.read_text()) | label)
    assert run(line(a), "--output", tmp_path / "out.parquet") == 1
    assert f"{path} has sha256" in refusal(capsys) and not (tmp_path / "out.parquet").exists()


def copy(made, tmp_path):
    shutil.copytree(made / "a", tmp_path / "a")
    return tmp_path / "a"


def refusal(capsys):
    (message,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("altq: "))
    return message


def test_a_selection_that_was_judged_with_another_seed_is_not_of_its_windows(tmp_path):
    tokens = {"split": "calibration", "text_sha256": "a", "seed": 0}
    upstream = {"tokens.npy": tokens, "full.json": {"command": "perplexity", "options": {"setting": SETTING}}}
    record = {
        "command": "select",
        "options": {"selection": "random0"},
        "inputs": {"full.json": "b"},
        "upstream": upstream,
    }
    write_json(tmp_path / "best_random.json", {"model": "made", "provenance": record})
    assert lineage(tmp_path / "best_random.json") == {"setting": SETTING}


def test_what_names_no_model_may_stand_beside_that_of_another(tmp_path):
    """What `altq distinct` writes, of which a table of two models has two."""
    upstream = {"model": {"family": "llama", "files": {"model.safetensors": "a"}}}
    write_json(tmp_path / "distinct.json", {"first": {}, "provenance": {"command": "distinct", "upstream": upstream}})
    assert lineage(tmp_path / "distinct.json").keys() == {"model"}
    assert result_lineage(tmp_path / "distinct.json") == {}


def test_what_goes_together_is_taken_and_gives_the_same_again(made, tmp_path):
    a = copy(made, tmp_path)
    for line, output in ((assemble(a), "again"), (perplexity(a), "again.json"), (reconstruction(a), "oracle.json")):
        assert run(line, "--output", tmp_path / output) == 0
    seen, expected = (json.loads(path.read_text()) for path in (tmp_path / "again.json", made / "a/affine-pydoc.json"))
    assert seen["nll"] == expected["nll"]


def test_a_refined_checkpoint_is_of_the_lineage_of_the_one_behind_it(made, tmp_path, capsys):
    a = copy(made, tmp_path)
    folder = a / f"checkpoints/made/affine_refined/{SETTING}/rtn/seed0"
    assert run(refine(a), "--output", folder) == 0
    record = json.loads((folder / "provenance.json").read_text())
    assert len(record["refinement"]["losses"]) == 2 and record["options"]["method"] == "affine_refined"
    behind = a / f"checkpoints/made/affine/{SETTING}/rtn/seed0"
    assert lineage(folder) == {n: trait for n, trait in lineage(behind).items() if n != "weight rounding"}
    assert run(f"perplexity --folder {folder} --tokens {a}/test.npy", "--output", a / "refined-pydoc.json") == 0
    refined, plain = a / "refined-pydoc.json", a / "affine-pydoc.json"
    assert json.loads(refined.read_text())["method"] == "affine_refined"
    traits = result_lineage(refined)
    assert traits == result_lineage(plain) and any(name.startswith("calibration states") for name in traits)
    assert run(f"table2 --results {plain} {refined}", "--output", tmp_path / "table2.csv") == 0
    assert "Affine, refined" in (tmp_path / "table2.md").read_text()
    again = tmp_path / "again"
    assert run(refine(a).replace("/affine/", "/affine_refined/"), "--output", again) == 0
    assert json.loads((again / "quantization.json").read_text())["method"] == "affine_refined"


def test_an_entry_in_the_place_of_another_is_refused_and_made_again(made, tmp_path, capsys):
    a = copy(made, tmp_path)
    bank = a / f"bank/{SETTING}/0/affine"
    entry = bank / "sublayer_000.safetensors"
    whole = entry.read_bytes()
    shutil.copy(bank / "sublayer_002.safetensors", entry)
    assert run(assemble(a), "--output", tmp_path / "out") == 1
    message = refusal(capsys)
    assert f"{entry} has sha256" in message and f"delete {bank}/index.json and run again" in message
    (bank / "index.json").unlink()
    line = calibrate("calibrate", a, a, f"--kind affine {RECIPE}")
    assert run(line, "--output", bank) == 0 and entry.read_bytes() == whole
    assert run(assemble(a), "--output", tmp_path / "out") == 0


def test_an_entry_of_another_bank_is_refused(made, tmp_path, capsys):
    a = copy(made, tmp_path)
    entry = "sublayer_001.safetensors"
    shutil.copy(made / f"b/bank/{SETTING}/0/affine" / entry, a / f"bank/{SETTING}/0/affine" / entry)
    assert run(assemble(a), "--output", tmp_path / "out") == 1
    assert f"{entry} has sha256" in refusal(capsys)


@pytest.mark.parametrize("name", ["state_001.npy", "observed_000.safetensors"])
def test_states_in_the_place_of_others_are_refused(made, tmp_path, capsys, name):
    a = copy(made, tmp_path)
    shutil.copy(a / "states0" / name.replace("_001", "_002").replace("_000", "_002"), a / "states0" / name)
    for command in ("calibrate --kind affine", "search " + CANDIDATES):
        first, _, more = command.partition(" ")
        assert run(calibrate(first, a, a, f"{more} {RECIPE}"), "--output", tmp_path / first) == 1
        message = refusal(capsys)
        assert f"{name} has sha256" in message and "run `altq states` again" in message


@pytest.mark.parametrize("file", ["test.npy", "made/model.safetensors"])
def test_tokens_and_weights_that_were_changed_are_refused(made, tmp_path, capsys, file):
    a = copy(made, tmp_path)
    path = a / file
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert run(full(a), "--output", tmp_path / "full.json") == 1
    assert re.search(rf"{path} has (another )?sha256", refusal(capsys))


def with_nan_scale(path):
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(".scale"))
    tensors[name][0] = np.nan
    save_file(tensors, path, metadata={"format": "pt"})


def test_damage_to_a_checkpoint_does_not_outlive_its_repair(made, tmp_path, capsys):
    a = copy(made, tmp_path)
    path = next((a / "checkpoints").rglob("altq-00002-of-*.safetensors"))
    whole = path.read_bytes()
    with_nan_scale(path)
    assert run(perplexity(a), "--output", tmp_path / "result.json") == 1
    assert f"{path} has sha256" in refusal(capsys)
    path.write_bytes(whole)
    assert run(perplexity(a), "--output", tmp_path / "result.json") == 0
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a", "result.json"]


def stopped_perplexity(a, output, monkeypatch):
    """Let a measurement be stopped before its second block."""
    original = QuantizedSkeleton.block

    def block(skeleton, index):
        if index == 1:
            raise Stopped
        return original(skeleton, index)

    with monkeypatch.context() as patch:
        patch.setattr(QuantizedSkeleton, "block", block)
        assert run(perplexity(a), "--output", output) == 130
    return output.with_name(f".{output.name}.scratch")


def test_scratch_past_a_block_does_not_hide_that_it_was_damaged(made, tmp_path, monkeypatch, capsys):
    a = copy(made, tmp_path)
    stopped_perplexity(a, tmp_path / "result.json", monkeypatch)
    path = next((a / "checkpoints").rglob("altq-00002-of-*.safetensors"))
    with_nan_scale(path)
    capsys.readouterr()
    assert run(perplexity(a), "--output", tmp_path / "result.json") == 1
    assert f"{path} has sha256" in refusal(capsys)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{}"])
def test_a_scratch_note_that_says_nothing_begins_anew_with_a_line_in_the_log(
    made, tmp_path, monkeypatch, caplog, content
):
    a = copy(made, tmp_path)
    scratch = stopped_perplexity(a, tmp_path / "result.json", monkeypatch)
    notes = sorted(scratch.glob("*.json"))
    assert notes
    for note in notes:
        note.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="altq"):
        assert run(perplexity(a), "--output", tmp_path / "result.json") == 0
    assert f"{notes[0]} cannot be read" in caplog.text
    expected = json.loads((made / "a/affine-pydoc.json").read_text())
    assert json.loads((tmp_path / "result.json").read_text())["nll"] == expected["nll"]
    assert not scratch.exists()
