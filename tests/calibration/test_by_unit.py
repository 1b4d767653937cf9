"""Calibrating a bank: what is written, and that a run which was cut off goes on to the same bytes."""

import logging
import shutil
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from models_for_tests import Workspace, recipe
from safetensors.torch import load_file, save_file

from altq.calibration import by_unit as module
from altq.calibration import subject
from altq.calibration.bank import entry_path, read_entry
from altq.calibration.by_unit import calibrate_bank
from altq.calibration.fitting import Fitting
from altq.calibration.shard import WHOLE, Shard
from altq.calibration.states import States, digest
from altq.calibration.subject import Subject
from altq.experiment.setting import FULL_PRECISION, Setting
from altq.runtime.files import read_json, sha256, write_json
from altq.runtime.tensor_files import read_hidden_states

SUBLAYERS = ["block 0 attention", "block 0 ffn", "block 1 attention", "block 1 ffn"]
SETTING = Setting(4, 4, 4, 4)
STEPS = {"steps": 2, "clip_search": True}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace("llama_gqa", tmp_path_factory.mktemp("bank"))


@pytest.fixture
def calibrated(monkeypatch):
    """The names of the units that are calibrated, as they are."""
    seen, original = [], module.fit_unit

    def fit_unit(unit, problem, *, recipe, name):
        seen.append(name)
        return original(unit, problem, recipe=recipe, name=name)

    monkeypatch.setattr(module, "fit_unit", fit_unit)
    return seen


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(workspace, folder, kind="affine", seed=0, code="code", setting=SETTING, shard=WHOLE, **options):
    fitting = Fitting(setting, kind=kind, seed=seed, recipe=recipe(**STEPS | options))
    opened = Subject.open(workspace.model, workspace.states)
    calibrate_bank(opened, fitting, folder, fingerprint=code, shard=shard)
    return folder


@pytest.mark.parametrize(("unit", "counts"), [("sublayer", (2, 3, 4, 5)), ("block", (2,))])
def test_a_bank_is_the_same_bits_for_any_number_of_shards(workspace, tmp_path, calibrated, unit, counts):
    expected = contents(run(workspace, tmp_path / "whole", unit=unit))
    for count in counts:
        folder = tmp_path / str(count)
        for number in reversed(range(1, count + 1)):  # in whatever order they run
            run(workspace, folder, unit=unit, shard=Shard(number, count))
            assert not (folder / "index.json").exists()
        calibrated.clear()
        assert contents(run(workspace, folder, unit=unit)) == expected
        assert calibrated == []


def test_a_corrupt_entry_of_a_shard_is_calibrated_anew_and_said(workspace, tmp_path, calibrated, caplog):
    expected = contents(run(workspace, tmp_path / "whole"))
    for number in (1, 2):
        run(workspace, tmp_path / "cut", shard=Shard(number, 2))
    entry = entry_path(tmp_path / "cut", 2)
    entry.write_bytes(entry.read_bytes()[:-100])
    calibrated.clear()
    with caplog.at_level(logging.WARNING, "altq"):
        assert contents(run(workspace, tmp_path / "cut")) == expected
    assert calibrated == ["block 1 attention"] and f"{entry} cannot be read" in caplog.text


def test_a_bank_is_an_entry_for_each_sublayer_and_an_index(workspace, tmp_path):
    run(workspace, tmp_path)
    assert set(contents(tmp_path)) == {*(f"sublayer_{s:03d}.safetensors" for s in range(4)), "index.json"}
    index = read_json(tmp_path / "index.json")
    assert index["kind"] == "affine" and index["setting"] == "W4A4K4V4" and index["seed"] == 0
    assert index["recipe"] == recipe(**STEPS).model_dump(mode="json")
    assert [entry["sublayer"] for entry in index["entries"]] == [0, 1, 2, 3]
    assert all(0 < entry["loss"] <= entry["start_loss"] for entry in index["entries"])


@contextmanager
def killed_at_entry(sublayer, monkeypatch):
    """What runs within is killed where it would write the entry of a sublayer."""
    original = module.write_entry

    def killed(path, *arguments):
        if path.name == f"sublayer_{sublayer:03d}.safetensors":
            raise KeyboardInterrupt
        original(path, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "write_entry", killed)
        yield


def test_killed_and_run_again_it_goes_on_and_is_bit_identical(workspace, tmp_path, calibrated, monkeypatch):
    expected = contents(run(workspace, tmp_path / "whole"))
    assert calibrated == SUBLAYERS
    calibrated.clear()
    with killed_at_entry(2, monkeypatch):
        run(workspace, tmp_path / "parts")
    assert set(contents(tmp_path / "parts")) == {"sublayer_000.safetensors", "sublayer_001.safetensors"}
    calibrated.clear()
    assert contents(run(workspace, tmp_path / "parts")) == expected
    assert calibrated == SUBLAYERS[2:]


def test_entries_lost_from_the_middle_are_made_again_bit_for_bit(workspace, tmp_path, calibrated):
    expected = contents(run(workspace, tmp_path))
    calibrated.clear()
    (tmp_path / "index.json").unlink()
    entry_path(tmp_path, 1).unlink()
    entry_path(tmp_path, 3).unlink()
    assert contents(run(workspace, tmp_path)) == expected
    assert calibrated == [SUBLAYERS[1], SUBLAYERS[3]]
    calibrated.clear()
    assert contents(run(workspace, tmp_path)) == expected
    assert calibrated == []


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 3}, {"learning_rate": 2e-3}, {"initial_clip": 0.9}, {"scaling": "smooth"}, {"other_sites": "scaling"},
        {"seed": 1}, {"code": "other"}, {"setting": Setting(4, 4, 4, 3)}, {"kind": "rotation"},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_whatever_goes_into_an_entry_calibrates_it_anew(workspace, tmp_path, calibrated, change):
    run(workspace, tmp_path, steps=0)
    calibrated.clear()
    run(workspace, tmp_path, **{"steps": 0} | change)
    assert calibrated == SUBLAYERS


def test_other_states_calibrate_anew_and_another_loss_too(workspace, tmp_path, calibrated):
    bank = run(workspace, tmp_path / "bank", steps=0)
    other = Workspace("llama_gqa", tmp_path / "mse", loss="mse", tokens=workspace.tokens)
    calibrated.clear()
    run(other, bank, steps=0)
    assert calibrated == SUBLAYERS


def test_a_truncated_entry_is_calibrated_anew_with_a_warning(workspace, tmp_path, calibrated, caplog):
    expected = contents(run(workspace, tmp_path))
    calibrated.clear()
    for s, length in ((1, 500), (2, 0)):
        path = entry_path(tmp_path, s)
        path.write_bytes(path.read_bytes()[:length])
    with caplog.at_level(logging.WARNING, logger="altq.calibration.bank"):
        assert contents(run(workspace, tmp_path)) == expected
    assert calibrated == SUBLAYERS[1:3]
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [message.partition(" ")[0] for message in said] == [str(entry_path(tmp_path, s)) for s in (1, 2)]
    assert all("calibrated anew" in message for message in said)


def test_an_entry_without_a_record_is_calibrated_anew(workspace, tmp_path, calibrated):
    expected = contents(run(workspace, tmp_path))
    calibrated.clear()
    save_file(load_file(entry_path(tmp_path, 0)), entry_path(tmp_path, 0))
    assert contents(run(workspace, tmp_path)) == expected
    assert calibrated == SUBLAYERS[:1]


def test_a_sublayer_that_cannot_be_fitted_is_named_and_leaves_no_index(workspace, tmp_path, monkeypatch):
    class Spoiled(States):
        def state(self, index):
            state = super().state(index)
            return state * torch.nan if index == 3 else state

    monkeypatch.setattr(subject, "States", Spoiled)
    with pytest.raises(ValueError, match="block 1 attention: the loss is nan"):
        run(workspace, tmp_path)
    assert set(contents(tmp_path)) == {"sublayer_000.safetensors", "sublayer_001.safetensors"}


def test_an_entry_whose_tensors_were_damaged_is_calibrated_anew(workspace, tmp_path, calibrated, caplog):
    expected = contents(run(workspace, tmp_path))
    calibrated.clear()
    path = entry_path(tmp_path, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])  # its header and length are as they were
    assert contents(run(workspace, tmp_path)) == expected
    assert calibrated == SUBLAYERS[1:2] and "sublayer_001.safetensors cannot be read" in caplog.text


def test_an_entry_in_the_place_of_another_is_refused(workspace, tmp_path):
    run(workspace, tmp_path)
    entry_path(tmp_path, 2).replace(entry_path(tmp_path, 0))
    with pytest.raises(ValueError, match=r"sublayer_000\.safetensors is of sublayer 2, not of 0; delete .*index\.json"):
        read_entry(tmp_path, 0)


def test_only_what_read_a_file_of_the_states_is_fitted_anew_when_that_is_another(workspace, tmp_path, calibrated):
    given = SimpleNamespace(model=workspace.model, states=tmp_path / "states")
    shutil.copytree(workspace.states, given.states)
    run(given, tmp_path / "bank")
    calibrated.clear()
    state = given.states / "state_001.npy"  # leaves sublayer 0 and enters sublayer 1
    np.save(state, np.load(state) * 1.01)
    described = read_json(given.states / "states.json")
    described["files"][state.name] = sha256(state)
    described["borders"][1] = digest(read_hidden_states(state))
    write_json(given.states / "states.json", described)
    run(given, tmp_path / "bank")
    assert calibrated == SUBLAYERS[:2]


def test_an_entry_without_a_fingerprint_is_calibrated_anew(workspace, tmp_path, calibrated, monkeypatch):
    # As end-to-end calibration writes them.
    original = module.write_entry
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_entry", lambda path, quantized, record: original(path, quantized, {"sublayer": 0}))
        run(workspace, tmp_path)
    calibrated.clear()
    run(workspace, tmp_path)
    assert calibrated == SUBLAYERS


def test_a_bank_calibrated_by_blocks_has_an_entry_for_both_halves_of_each(workspace, tmp_path, calibrated):
    run(workspace, tmp_path, unit="block")
    assert calibrated == ["block 0", "block 1"]
    assert set(contents(tmp_path)) == {*(f"sublayer_{s:03d}.safetensors" for s in range(4)), "index.json"}
    index = read_json(tmp_path / "index.json")
    assert index["recipe"]["unit"] == "block"
    entries = index["entries"]
    assert [entry["sublayer"] for entry in entries] == [0, 1, 2, 3]
    assert len({entry["fingerprint"] for entry in entries}) == 4
    for first, second in (entries[:2], entries[2:]):
        # Both halves reached the loss of their block.
        assert first["loss"] == second["loss"] and 0 < first["loss"] <= first["start_loss"]
    assert entries[0]["loss"] != entries[2]["loss"]
    for s in range(4):
        entry = read_entry(tmp_path, s)
        sites = {"qkv", "o", "key", "value"} if s % 2 == 0 else {"gate_up", "down"}
        assert entry.transforms.keys() == sites
        assert all(transform.check() == (True, "ok") for transform in entry.transforms.values())


def test_the_loss_of_a_block_is_that_of_both_halves_against_the_block_s_output(workspace, tmp_path, monkeypatch):
    problems, original = [], module.fit_unit

    def fit_unit(unit, problem, **options):
        problems.append((unit, problem))
        return original(unit, problem, **options)

    monkeypatch.setattr(module, "fit_unit", fit_unit)
    run(workspace, tmp_path, unit="block", setting=FULL_PRECISION)
    states = States(workspace.states)
    for block, (unit, problem) in enumerate(problems):
        assert [quantized.sublayer.name for quantized in unit.sublayers] == ["attention", "ffn"]
        assert torch.equal(problem.inputs, states.state(2 * block))
        assert torch.equal(problem.outputs, states.state(2 * block + 2))
        # float32, and with operands of 8 bits where the processor has reduced products.
        assert problem.settled(unit, torch.arange(4)) < 1e-4
    assert len(problems) == 2


@pytest.mark.parametrize("lost", [1, 2])
def test_one_lost_half_calibrates_its_block_anew_bit_for_bit(workspace, tmp_path, calibrated, lost):
    expected = contents(run(workspace, tmp_path, unit="block"))
    calibrated.clear()
    (tmp_path / "index.json").unlink()
    entry_path(tmp_path, lost).unlink()
    assert contents(run(workspace, tmp_path, unit="block")) == expected
    assert calibrated == [f"block {lost // 2}"]
    calibrated.clear()
    assert contents(run(workspace, tmp_path, unit="block")) == expected
    assert calibrated == []


def test_killed_between_the_halves_of_a_block_it_goes_on_and_is_bit_identical(
    workspace, tmp_path, calibrated, monkeypatch
):
    expected = contents(run(workspace, tmp_path / "whole", unit="block"))
    with killed_at_entry(3, monkeypatch):
        run(workspace, tmp_path / "parts", unit="block")
    assert set(contents(tmp_path / "parts")) == {f"sublayer_{s:03d}.safetensors" for s in range(3)}
    calibrated.clear()
    assert contents(run(workspace, tmp_path / "parts", unit="block")) == expected
    assert calibrated == ["block 1"]


def test_what_is_fitted_together_is_part_of_an_entry(workspace, tmp_path, calibrated):
    by_sublayer = contents(run(workspace, tmp_path))
    assert calibrated == SUBLAYERS
    calibrated.clear()
    by_block = contents(run(workspace, tmp_path, unit="block"))
    assert calibrated == ["block 0", "block 1"]
    assert by_sublayer.keys() == by_block.keys()
    entry = load_file(entry_path(tmp_path, 0))  # by block
    calibrated.clear()
    assert contents(run(workspace, tmp_path)) == by_sublayer
    assert calibrated == SUBLAYERS
    # Fitting the first half to the block's output gives it another transform and other clips.
    assert any(not torch.equal(tensor, entry[name]) for name, tensor in load_file(entry_path(tmp_path, 0)).items())


def test_without_steps_and_search_the_unit_makes_no_difference(workspace, tmp_path):
    options = {"steps": 0, "clip_search": False}
    run(workspace, tmp_path / "sublayer", **options)
    run(workspace, tmp_path / "block", unit="block", **options)
    for s in range(4):
        by_sublayer, by_block = (load_file(entry_path(tmp_path / unit, s)) for unit in ("sublayer", "block"))
        assert by_sublayer.keys() == by_block.keys()
        assert all(torch.equal(tensor, by_block[name]) for name, tensor in by_sublayer.items())


def test_a_block_that_cannot_be_fitted_is_named_and_leaves_none_of_its_entries(workspace, tmp_path, monkeypatch):
    class Spoiled(States):
        def state(self, index):
            state = super().state(index)
            return state * torch.nan if index == 4 else state

    monkeypatch.setattr(subject, "States", Spoiled)
    with pytest.raises(ValueError, match="block 1: the loss is nan"):
        run(workspace, tmp_path, unit="block")
    assert set(contents(tmp_path)) == {"sublayer_000.safetensors", "sublayer_001.safetensors"}
