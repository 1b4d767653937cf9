"""Results that were tampered with, cut off or left behind are found, and those that are whole are not."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from altq.cli import main
from altq.runtime.files import sha256, write_json
from altq.runtime.integrity import Finding, Results
from altq.runtime.provenance import provenance, write_provenance


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A model, tokens, states, a checkpoint and its perplexity, each recorded as a stage records it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results"
    model, states = folder / "models/m", folder / "states/m/seed0"
    checkpoint = folder / "checkpoints/m/affine/W4A4K4V4/gptq/seed0"
    for made in (model, states, checkpoint, folder / "tokens", folder / "perplexity"):
        made.mkdir(parents=True)
    for place in (model, checkpoint):
        save_file({"weight": torch.arange(64.0)}, place / "model.safetensors")
    write_json(model / "source.json", {"files": {"model.safetensors": sha256(model / "model.safetensors")}})
    np.save(folder / "tokens/calibration.npy", np.arange(512))
    write_json(folder / "tokens/calibration.json", {"num_windows": 4})
    np.save(states / "state_000.npy", np.arange(512.0))
    write_json(states / "states.json", {"loss": "mse"})
    record("states", states, ["results/models/m", "results/tokens/calibration.npy"])
    write_json(checkpoint / "quantization.json", {"setting": "W4A4K4V4"})
    record("assemble", checkpoint, ["results/models/m", "results/states/m/seed0"])
    inputs = [str(checkpoint.relative_to(tmp_path))]
    result = {"perplexity": 9.0, "provenance": provenance("perplexity", {}, inputs)}
    write_json(folder / "perplexity/affine.json", result)
    return folder


def record(command, folder, inputs):
    write_provenance(folder, provenance(command, {}, inputs))


STATES = "results/states/m/seed0"
CHECKPOINT = "results/checkpoints/m/affine/W4A4K4V4/gptq/seed0"
PERPLEXITY = "results/perplexity/affine.json"


def found(results):
    return {finding.path: finding.problem for finding in Results(results).findings()}


def test_whole_results_have_no_finding(results, capsys):
    assert found(results) == {}
    assert main(["verify", str(results)]) == 0
    assert "3 results are whole" in capsys.readouterr().out


def test_an_input_that_changed_and_what_rests_on_it(results):
    np.save(results / "tokens/calibration.npy", np.arange(1, 513))
    assert Results(results).findings() == [
        Finding(STATES, "its input results/tokens/calibration.npy has changed since"),
        Finding(CHECKPOINT, f"rests on {STATES}"),
        Finding(PERPLEXITY, f"rests on {CHECKPOINT}"),
    ]


def test_an_input_that_is_gone(results):
    (results / "tokens/calibration.npy").unlink()
    assert found(results)[STATES] == "its input results/tokens/calibration.npy is missing"


def test_a_model_whose_weights_were_edited(results):
    path = results / "models/m/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    problems = found(results)
    assert problems["results/models/m"] == "model.safetensors has another sha256 than was written down"
    assert {STATES, CHECKPOINT, PERPLEXITY} <= problems.keys()


def test_a_checkpoint_that_was_made_again(results):
    write_json(results / "states/m/seed0/states.json", {"loss": "relative"})
    record("states", results / "states/m/seed0", ["results/models/m"])
    assert found(results) == {
        CHECKPOINT: f"its input {STATES} has changed since",
        PERPLEXITY: f"rests on {CHECKPOINT}",
    }


@pytest.mark.parametrize(
    ("file", "result", "said"),
    [
        (f"{CHECKPOINT}/model.safetensors", CHECKPOINT, "is cut off: "),
        (f"{STATES}/state_000.npy", STATES, "state_000.npy cannot be read"),
        (f"{CHECKPOINT}/quantization.json", CHECKPOINT, "cannot be read as JSON"),
        (PERPLEXITY, PERPLEXITY, "cannot be read as JSON"),
    ],
)
def test_a_file_that_is_cut_off(results, file, result, said):
    path = results.parent / file
    path.write_bytes(path.read_bytes()[:-40])
    findings = [finding for finding in Results(results).findings() if finding.path == result]
    assert any(said in finding.problem for finding in findings), findings


def test_a_file_that_has_lost_its_header(results):
    path = results.parent / CHECKPOINT / "model.safetensors"
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert "model.safetensors has no header that can be read" in found(results)[CHECKPOINT]


def test_a_file_of_a_folder_that_is_gone(results):
    (results.parent / STATES / "state_000.npy").unlink()
    assert found(results)[STATES] == "state_000.npy is missing"


def test_a_folder_that_was_never_finished(results):
    (results / "bank/m/W4A4K4V4/seed0/affine").mkdir(parents=True)
    (results / "bank/m/W4A4K4V4/seed0/affine/sublayer_000.json").write_text("{}")
    problem = "not complete: index.json, which is written last, is not there"
    assert found(results) == {"results/bank/m/W4A4K4V4/seed0/affine": problem}


def test_what_a_killed_process_left_over(results):
    (results / "tokens/.test.npy.abc.partial").write_bytes(b"12")
    assert "killed" in found(results)["results/tokens/.test.npy.abc.partial"]


def test_findings_are_printed_and_fail(results, capsys):
    (results / "tokens/calibration.npy").unlink()
    assert main(["verify", str(results)]) == 1
    said = capsys.readouterr()
    assert f"{STATES}" in said.out and "is missing" in said.out and said.out.count("rests on") == 2
    assert "3 results are not what their records say, of 3" in said.err


@pytest.mark.parametrize(
    ("file", "result"), [(f"{CHECKPOINT}/model.safetensors", CHECKPOINT), (f"{STATES}/state_000.npy", STATES)]
)
def test_one_bit_of_a_tensor(results, file, result):
    path = results.parent / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert found(results)[result] == f"{path.name} has another sha256 than was written down"


def test_records_of_files_leave_out_themselves_and_what_is_hidden(results):
    (results.parent / STATES / ".state_000.npy.abc.partial").write_bytes(b"1")
    record("states", results.parent / STATES, [])
    written = json.loads((results.parent / STATES / "provenance.json").read_text())
    assert written["files"].keys() == {"state_000.npy", "states.json"}


def test_what_is_made_of_a_folder_does_not_repeat_its_files(results):
    upstream = json.loads((results.parent / PERPLEXITY).read_text())["provenance"]["upstream"]
    assert "files" in upstream["results/models/m"] and "files" not in upstream[STATES]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        Results(tmp_path / "results")


@pytest.fixture
def elsewhere(results, tmp_path):
    """The results under another name on another disk, and a link in their place."""
    real = tmp_path / "disk" / "experiment-17"
    real.parent.mkdir()
    results.rename(real)
    results.symlink_to(real)
    return real


@pytest.mark.parametrize(
    "by", ["link", "link from there", "real", "relative", "from within", "through a link to its parent"]
)
def test_results_are_found_by_any_of_their_names(elsewhere, tmp_path, monkeypatch, by, capsys):
    (tmp_path / "cwd").mkdir()
    (tmp_path / "here").symlink_to(tmp_path)
    cwd, given = {
        "link": (tmp_path, "results"),
        "link from there": (elsewhere, str(tmp_path / "results")),
        "real": (tmp_path / "cwd", str(elsewhere)),
        "relative": (tmp_path / "cwd", "../results/"),
        "from within": (tmp_path / "results", "."),
        "through a link to its parent": (tmp_path / "cwd", "../here/results"),
    }[by]
    monkeypatch.chdir(cwd)
    assert main(["verify", given]) == 0, capsys.readouterr()
    assert "3 results are whole" in capsys.readouterr().out


def test_what_is_wrong_behind_a_link_is_found(elsewhere, tmp_path):
    np.save(elsewhere / "tokens/calibration.npy", np.arange(1, 513))
    assert [finding.path for finding in Results("results").findings()] == [STATES, CHECKPOINT, PERPLEXITY]
    below = [finding.path for finding in Results(elsewhere).findings()]
    assert below == [path.replace("results", "experiment-17") for path in (STATES, CHECKPOINT, PERPLEXITY)]


def test_links_within_results_are_followed(results, tmp_path):
    (results / "states/m").rename(tmp_path / "states-of-m")
    (results / "states/m").symlink_to(tmp_path / "states-of-m")
    (results / "states/loop").symlink_to(results / "states")
    assert found(results) == {}
    (tmp_path / "states-of-m/seed0/state_000.npy").write_bytes(b"1")
    assert "state_000.npy cannot be read" in " ".join(
        f.problem for f in Results(results).findings() if f.path == STATES
    )


@pytest.mark.parametrize("style", ["absolute", "from another folder"])
def test_records_by_other_paths_hold_after_a_move(results, tmp_path, monkeypatch, style):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    start = str(tmp_path) if style == "absolute" else ".."
    record(
        "states", results / "states/m/seed0", [f"{start}/results/models/m", f"{start}/results/tokens/calibration.npy"]
    )
    record("assemble", results.parent / CHECKPOINT, [f"{start}/results/models/m", f"{start}/results/states/m/seed0"])
    made = provenance("perplexity", {}, [f"{start}/{CHECKPOINT}"])
    write_json(results / "perplexity/affine.json", {"perplexity": 9.0, "provenance": made})
    assert found(results) == {}
    results.rename(tmp_path / "cwd" / "moved")
    assert found(tmp_path / "cwd" / "moved") == {}
    np.save(tmp_path / "cwd/moved/tokens/calibration.npy", np.arange(1, 513))
    assert len(Results(tmp_path / "cwd/moved").findings()) == 3


def test_inputs_that_are_elsewhere_are_no_reason_to_delete_results(results, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other/tokens.npy", np.arange(8))
    write_json(tmp_path / "other/tokens.json", {"num_windows": 1})
    record("states", results / "states/m/seed0", ["other/tokens.npy"])
    record("assemble", results.parent / CHECKPOINT, ["results/models/m", STATES])
    made = provenance("perplexity", {}, [CHECKPOINT])
    write_json(results / "perplexity/affine.json", {"perplexity": 9.0, "provenance": made})
    assert found(results) == {}
    (tmp_path / "other/tokens.npy").unlink()
    assert main(["verify", str(results)]) == 1
    said = capsys.readouterr()
    assert "its input other/tokens.npy is missing" in said.out and "keep them" in said.err and "delete" not in said.err


def test_inputs_of_which_no_place_is_recorded_are_named_and_fail_nothing(results, tmp_path, monkeypatch, capsys):
    (tmp_path / "somebody").mkdir()
    np.save(tmp_path / "somebody/tokens.npy", np.arange(8))
    write_json(tmp_path / "somebody/tokens.json", {"num_windows": 1})
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    record("states", results / "states/m/seed0", [tmp_path / "somebody/tokens.npy"])
    monkeypatch.chdir(tmp_path)
    record("assemble", results.parent / CHECKPOINT, ["results/models/m", STATES])
    made = provenance("perplexity", {}, [CHECKPOINT])
    write_json(results / "perplexity/affine.json", {"perplexity": 9.0, "provenance": made})
    assert main(["verify", str(results)]) == 0
    said = capsys.readouterr().out
    assert "Not looked at" in said and "/tokens.npy" in said and "somebody" not in said
    assert not any("somebody" in path.read_text() for path in results.rglob("*.json"))


def test_what_a_stopped_run_left_is_one_finding(results):
    scratch = results / "states/m/seed0/states.scratch"
    scratch.mkdir()
    (scratch / "unit_000000.json").write_text("")
    np.save(scratch / "state_001.npy", np.arange(8.0))
    assert found(results) == {
        f"{STATES}/states.scratch": "left over by a run that was stopped; run it again, or remove the folder"
    }
