"""End-to-end calibration that was killed goes on where it was, and only from what was trained alike."""

import logging

import pytest
import torch
from end_to_end_for_tests import TRAINED, after_each_step, calibrate, contents, few
from models_for_tests import Workspace

from altq.calibration import end_to_end
from altq.experiment.baselines import SPINQUANT
from altq.experiment.setting import Setting


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace("llama_gqa", tmp_path_factory.mktemp("llama_gqa"))


class Killed(KeyboardInterrupt):
    pass


def kill_at(monkeypatch, step):
    """Let the step of this number die."""
    original = end_to_end._Training._step

    def dying(self, number, windows):
        if number == step:
            raise Killed
        return original(self, number, windows)

    monkeypatch.setattr(end_to_end._Training, "_step", dying)


@pytest.mark.parametrize("name", ["spinquant", "ostquant"])
@pytest.mark.parametrize("killed_at", [1, 3])
def test_killed_and_run_again_it_goes_on_and_is_bit_identical(
    workspace, tmp_path, monkeypatch, caplog, name, killed_at
):
    recipe = few(TRAINED[name], steps=4)
    expected = contents(calibrate(workspace, tmp_path / "whole", recipe))
    assert "training.scratch" not in expected and "index.json" in expected
    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        kill_at(patch, killed_at)
        with pytest.raises(Killed):
            calibrate(workspace, folder, recipe)
    assert {path.name for path in folder.iterdir()} == {"training.scratch"}
    taken = []
    original = end_to_end._Training._step
    monkeypatch.setattr(end_to_end._Training, "_step", lambda *given: taken.append(given[1]) or original(*given))
    with caplog.at_level(logging.INFO, logger="altq"):
        assert contents(calibrate(workspace, folder, recipe)) == expected
    assert taken == list(range(killed_at, 4))
    assert f"going on after {killed_at + 1} finished units" in caplog.text


@pytest.mark.parametrize("damage", ["empty", "cut", "not a checkpoint"])
def test_a_saved_training_that_cannot_be_read_is_said_and_the_fit_starts_anew(
    workspace, tmp_path, monkeypatch, caplog, damage
):
    recipe = few(SPINQUANT)
    expected = contents(calibrate(workspace, tmp_path / "whole", recipe))
    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        kill_at(patch, 2)
        with pytest.raises(Killed):
            calibrate(workspace, folder, recipe)
    path = folder / "training.scratch" / "training_000002.pt"
    saved = path.read_bytes()
    caplog.clear()
    path.write_bytes({"empty": b"", "cut": saved[: len(saved) // 2], "not a checkpoint": bytes(200)}[damage])
    with caplog.at_level(logging.INFO, logger=end_to_end.__name__):
        assert contents(calibrate(workspace, folder, recipe)) == expected
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    [warning] = [message for message in warnings if str(path) in message]  # whether the loss falls is another matter
    assert "cannot be read" in warning
    assert "the fit starts anew" in warning and caplog.text.count("step 1 of") == 1


@pytest.mark.parametrize("change", ["recipe", "seed", "code", "setting"])
def test_what_was_trained_otherwise_is_not_gone_on_from(workspace, tmp_path, monkeypatch, change):
    recipe, folder = few(SPINQUANT), tmp_path / "killed"
    given = {
        "recipe": {"recipe": few(recipe, rotation_rate=0.5)},
        "seed": {"recipe": recipe, "seed": 1},
        "code": {"recipe": recipe, "code": "other"},
        "setting": {"recipe": recipe, "setting": Setting(4, 8, 4, 4)},
    }[change]
    with monkeypatch.context() as patch:
        kill_at(patch, 2)
        with pytest.raises(Killed):
            calibrate(workspace, folder, recipe)
    expected = contents(calibrate(workspace, tmp_path / "whole", **given))
    assert contents(calibrate(workspace, folder, **given)) == expected


def test_a_step_that_ends_in_nan_is_not_what_a_later_run_goes_on_from(workspace, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        after_each_step(patch, lambda whole: whole.rotation.fill_(torch.nan))
        with pytest.raises(ValueError, match="rotation is not finite after step 1; lower the recipe's rates"):
            calibrate(workspace, tmp_path / "bank", few(SPINQUANT))
    assert not list((tmp_path / "bank").glob("*"))
    expected = contents(calibrate(workspace, tmp_path / "whole", few(SPINQUANT)))
    assert contents(calibrate(workspace, tmp_path / "bank", few(SPINQUANT))) == expected
