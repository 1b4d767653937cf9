import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from altq.calibration import bank as module
from altq.calibration.bank import calibrate_bank, entry_path, read_entry
from altq.files import read_json
from altq.setting import Setting
from altq.transforms.scaling import Scaled
from models_for_tests import KINDS, Workspace, recipe

SETTING = Setting(4, 4, 4, 4)
STEPS = {"steps": 2, "clip_search": True}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace("llama_gqa", tmp_path_factory.mktemp("bank"))


@pytest.fixture
def calibrated(monkeypatch):
    """The sublayers that are calibrated, as they are."""
    seen, original = [], module._calibrate

    def calibrate(sublayer, s, *arguments):
        seen.append(s)
        return original(sublayer, s, *arguments)

    monkeypatch.setattr(module, "_calibrate", calibrate)
    return seen


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(workspace, folder, kind="affine", seed=0, code="code", setting=SETTING, **options):
    given = recipe(**STEPS | options)
    calibrate_bank(workspace.model, workspace.states, setting, kind, seed, given, folder, code)
    return folder


def test_a_bank_is_an_entry_for_each_sublayer_and_an_index(workspace, tmp_path):
    run(workspace, tmp_path)
    assert set(contents(tmp_path)) == {*(f"sublayer_{s:03d}.safetensors" for s in range(4)), "index.json"}
    index = read_json(tmp_path / "index.json")
    assert index["kind"] == "affine" and index["setting"] == "W4A4K4V4" and index["seed"] == 0
    assert index["recipe"] == recipe(**STEPS).model_dump(mode="json")
    assert [entry["sublayer"] for entry in index["entries"]] == [0, 1, 2, 3]
    assert all(0 < entry["loss"] <= entry["start_loss"] for entry in index["entries"])


def test_killed_and_run_again_it_goes_on_and_is_bit_identical(workspace, tmp_path, calibrated, monkeypatch):
    expected = contents(run(workspace, tmp_path / "whole"))
    assert calibrated == [0, 1, 2, 3]
    calibrated.clear()
    original = module._write_entry

    def killed(path, *arguments):
        if path.name == "sublayer_002.safetensors":
            raise KeyboardInterrupt
        original(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_entry", killed)
        with pytest.raises(KeyboardInterrupt):
            run(workspace, tmp_path / "parts")
    assert set(contents(tmp_path / "parts")) == {"sublayer_000.safetensors", "sublayer_001.safetensors"}
    calibrated.clear()
    assert contents(run(workspace, tmp_path / "parts")) == expected
    assert calibrated == [2, 3]


def test_entries_lost_from_the_middle_are_made_again_bit_for_bit(workspace, tmp_path, calibrated):
    expected = contents(run(workspace, tmp_path))
    calibrated.clear()
    (tmp_path / "index.json").unlink()
    entry_path(tmp_path, 1).unlink()
    entry_path(tmp_path, 3).unlink()
    assert contents(run(workspace, tmp_path)) == expected
    assert calibrated == [1, 3]
    calibrated.clear()
    assert contents(run(workspace, tmp_path)) == expected
    assert calibrated == []


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 3}, {"learning_rate": 2e-3}, {"seed": 1}, {"code": "other"}, {"setting": Setting(4, 4, 4, 3)},
        {"kind": "rotation"},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_whatever_goes_into_an_entry_calibrates_it_anew(workspace, tmp_path, calibrated, change):
    run(workspace, tmp_path, steps=0)
    calibrated.clear()
    run(workspace, tmp_path, **{"steps": 0} | change)
    assert calibrated == [0, 1, 2, 3]


def test_other_states_calibrate_anew_and_another_loss_too(workspace, tmp_path, calibrated):
    bank = run(workspace, tmp_path / "bank", steps=0)
    other = Workspace("llama_gqa", tmp_path / "mse", loss="mse", tokens=workspace.tokens)
    calibrated.clear()
    run(other, bank, steps=0)
    assert calibrated == [0, 1, 2, 3]


def test_a_truncated_entry_is_calibrated_anew_with_a_warning(workspace, tmp_path, calibrated, caplog):
    expected = contents(run(workspace, tmp_path))
    calibrated.clear()
    for s, length in ((1, 500), (2, 0)):
        path = entry_path(tmp_path, s)
        path.write_bytes(path.read_bytes()[:length])
    with caplog.at_level(logging.WARNING, logger="altq.calibration.bank"):
        assert contents(run(workspace, tmp_path)) == expected
    assert calibrated == [1, 2]
    assert [record.getMessage().partition(" ")[0] for record in caplog.records] == [
        str(entry_path(tmp_path, s)) for s in (1, 2)
    ]
    assert all("calibrated anew" in record.getMessage() for record in caplog.records)


def test_an_entry_without_a_record_is_calibrated_anew(workspace, tmp_path, calibrated):
    expected = contents(run(workspace, tmp_path))
    calibrated.clear()
    save_file(load_file(entry_path(tmp_path, 0)), entry_path(tmp_path, 0))
    assert contents(run(workspace, tmp_path)) == expected
    assert calibrated == [0]


@pytest.mark.parametrize("kind", KINDS)
def test_an_entry_read_back_is_valid_and_of_its_kind(workspace, tmp_path, kind):
    run(workspace, tmp_path, kind, steps=0)
    for s in range(4):
        entry = read_entry(tmp_path, s)
        selected = entry.transforms["qkv" if s % 2 == 0 else "gate_up"]
        name = type(selected.online if isinstance(selected, Scaled) else selected).__name__
        assert name.lower() == kind and entry.signed is True
        assert all(transform.check()[0] for transform in entry.transforms.values())
        expected = {"o_proj", "v_proj", "k_proj", "q_proj"} if s % 2 == 0 else {"gate_proj", "up_proj", "down_proj"}
        assert {n.partition(".")[2] for n in entry.clips if n.startswith("weight.")} == expected
        assert all(((0.2 < clip) & (clip <= 1)).all() for clip in entry.clips.values())


def test_reading_a_broken_or_missing_entry_is_a_clear_error(workspace, tmp_path):
    run(workspace, tmp_path, steps=0)
    path = entry_path(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"sublayer_001.safetensors cannot be read .*; delete it and run again"):
        read_entry(tmp_path, 1)
    with pytest.raises(ValueError, match="sublayer_007.safetensors cannot be read"):
        read_entry(tmp_path, 7)


def test_a_sublayer_that_cannot_be_fitted_is_named_and_leaves_no_index(workspace, tmp_path, monkeypatch):
    states = module.States

    class Spoiled(states):
        def state(self, index):
            state = super().state(index)
            return state * torch.nan if index == 3 else state

    monkeypatch.setattr(module, "States", Spoiled)
    with pytest.raises(ValueError, match="block 1 attention: the loss is nan"):
        run(workspace, tmp_path)
    assert set(contents(tmp_path)) == {"sublayer_000.safetensors", "sublayer_001.safetensors"}
