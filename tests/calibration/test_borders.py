"""Borders that are not stored are computed again to the bytes that they would have had."""

import random

import pytest
import torch
from models_for_tests import make_tokens, recipe, save_tiny_model, write_selection

from altq.calibration import by_unit
from altq.calibration.borders import Borders
from altq.calibration.by_unit import calibrate_bank
from altq.calibration.fitting import Fitting
from altq.calibration.recording import record_states
from altq.calibration.shard import Shard
from altq.calibration.states import MOMENT_WINDOWS, States, digest
from altq.calibration.subject import Subject
from altq.checkpoint.assembly import assemble
from altq.checkpoint.scheme import Scheme
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.models.skeleton import Skeleton
from altq.runtime.files import read_json, write_json
from altq.selection.candidates import Candidates
from altq.selection.predicted import predict_model
from altq.selection.selection import Selection

BLOCKS = 5
SPACINGS = (2, 3, 5)
SETTING = Setting.parse("W4A4K4V4")


@pytest.fixture(scope="module", params=["llama_gqa", "gemma3_text"])
def recorded(request, tmp_path_factory):
    """A model of five blocks, and its states with every spacing: {spacing: folder}."""
    folder = tmp_path_factory.mktemp("borders")
    layers = {"layer_types": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"]}
    changes = layers if request.param == "gemma3_text" else {}
    model = save_tiny_model(request.param, folder / "model", num_hidden_layers=BLOCKS, **changes)
    tokens, states = make_tokens(windows=MOMENT_WINDOWS + 3, length=5), {}
    for every in (1, *SPACINGS):
        states[every] = folder / f"states{every}"
        record_states(model, tokens, loss="relative", folder=states[every], fingerprint="test", border_every=every)
    return model, states


def borders_of(recorded, every):
    model, folders = recorded
    return Subject.open(model, folders[every]).borders


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("every", SPACINGS)
@pytest.mark.parametrize("order", ["forward", "backward", "random"])
def test_a_border_has_the_bytes_that_it_has_where_it_is_stored(recorded, every, order):
    stored, borders = States(recorded[1][1]), borders_of(recorded, every)
    indices = list(range(2 * BLOCKS + 1))
    if order != "forward":
        indices = indices[::-1] if order == "backward" else random.Random(0).sample(indices, len(indices))
    for index in indices:
        assert borders.state(index).numpy().tobytes() == stored.state(index).numpy().tobytes(), index


@pytest.mark.parametrize("every", SPACINGS)
def test_moments_and_weights_have_the_bytes_that_they_have_where_they_are_stored(recorded, every):
    stored, borders = States(recorded[1][1]), borders_of(recorded, every)
    for s in range(2 * BLOCKS):
        expected, found = stored.observed(s), borders.observed(s)
        assert found.keys() == expected.keys()
        assert all(found[name].numpy().tobytes() == expected[name].numpy().tobytes() for name in expected), s
        assert torch.equal(borders.states.token_weights(s), stored.token_weights(s))
        assert borders.states.fingerprint_of([s]) == stored.fingerprint_of([s])
    assert borders.states.fingerprint_of_output() == stored.fingerprint_of_output()


@pytest.mark.parametrize("every", SPACINGS)
def test_stored_are_the_borders_of_every_kth_block_and_the_last(recorded, every):
    names = {path.name for path in recorded[1][every].iterdir()}
    kept = {f"kept_{s:03d}.safetensors" for s in range(2 * BLOCKS)}
    states = {f"state_{index:03d}.npy" for index in {*range(0, 2 * BLOCKS, 2 * every), 2 * BLOCKS}}
    assert names == kept | states | {"tokens.npy", "states.json"}


@pytest.mark.parametrize("every", [1, 2, 3])
def test_who_goes_past_all_borders_in_order_runs_every_block_once(recorded, every, monkeypatch):
    read, original = [], Skeleton.block
    monkeypatch.setattr(Skeleton, "block", lambda self, index: read.append(index) or original(self, index))
    borders = borders_of(recorded, every)
    for s in range(2 * BLOCKS):
        borders.state(s)
        borders.state(s + 1)
    assert read == ([] if every == 1 else list(range(BLOCKS)))
    assert len(borders._known) <= 3


def test_a_state_that_is_another_one_when_it_is_computed_again_is_refused(recorded, tmp_path):
    model, folders = recorded
    for path in folders[2].iterdir():
        (tmp_path / path.name).symlink_to(path)
    index = read_json(tmp_path / "states.json")
    index["borders"][3] = "0" * 64
    (tmp_path / "states.json").unlink()
    write_json(tmp_path / "states.json", index)
    borders = Subject.open(model, tmp_path).borders
    borders.state(2)
    with pytest.raises(ValueError, match=r"the state at border 3, which is not stored, .*--border-every 1"):
        borders.state(3)


def test_one_changed_bit_is_another_digest(recorded):
    state = States(recorded[1][1]).state(4)
    before = digest(state)
    for place in ((0, 0, 0), (18, 4, -1), (7, 2, 11)):
        changed = state.clone()
        changed.view(torch.int32)[place] ^= 1
        assert digest(changed) != before
    assert digest(state.clone()) == before and digest(state.flip(0)) != before


@pytest.mark.parametrize("unit", ["sublayer", "block"])
def test_banks_and_checkpoints_are_the_same_bytes_and_are_not_made_again(recorded, tmp_path, monkeypatch, unit):
    model, folders = recorded
    options = recipe(unit=unit, steps=2, clip_search=True)
    fitting = Fitting(SETTING, kind="affine", seed=0, recipe=options)
    banks, checkpoints = {}, {}
    for every in (1, 2, 5):
        banks[every], checkpoints[every] = tmp_path / f"bank{every}", tmp_path / f"checkpoint{every}"
        subject = Subject.open(model, folders[every])
        if every == 2:  # the second of two shards begins between two stored borders
            calibrate_bank(subject, fitting, banks[every], fingerprint="code", shard=Shard(2, 2))
            subject = Subject.open(model, folders[every])
        calibrate_bank(subject, fitting, banks[every], fingerprint="code")
        selection = Selection.read(write_selection(["affine"] * 2 * BLOCKS, tmp_path / "selection.json"))
        rounding = RoundingOptions(weights="gptq", windows=4, block_size=16)
        scheme = Scheme(selection, setting=SETTING, rounding=rounding, banks={"affine": banks[every]})
        assemble(model, folders[every], scheme, checkpoints[every], fingerprint="test")
    assert contents(banks[1]) == contents(banks[2]) == contents(banks[5])
    assert contents(checkpoints[1]) == contents(checkpoints[2]) == contents(checkpoints[5])
    monkeypatch.setattr(by_unit, "fit_unit", None)
    calibrate_bank(Subject.open(model, folders[3]), fitting, banks[1], fingerprint="code")
    assert contents(banks[1]) == contents(banks[2])


def test_predictions_are_the_same(recorded):
    candidates = Candidates(("affine", "rotation"), setting=SETTING, seed=0, recipe=recipe())
    predicted = [predict_model(Subject.open(recorded[0], recorded[1][every]), candidates) for every in (1, 3)]
    assert predicted[0] == predicted[1]


def test_states_of_another_spacing_leave_none_of_their_files(recorded, tmp_path):
    model, _ = recorded
    for every in (1, 2, 1):
        options = {"loss": "relative", "folder": tmp_path / "states", "border_every": every}
        record_states(model, make_tokens(), fingerprint=str(every), **options)
        described = read_json(tmp_path / "states" / "states.json")
        assert described["border_every"] == every
        assert {path.name for path in (tmp_path / "states").iterdir()} == described["files"].keys() | {"states.json"}


def test_states_without_what_is_needed_are_recorded_again(recorded, tmp_path):
    write_json(tmp_path / "states.json", {"loss": "mse", "num_sublayers": 4, "shape": [1, 2, 3], "files": {}})
    with pytest.raises(ValueError, match="lacks border_every; run `altq states` again"):
        States(tmp_path)


def test_borders_are_of_the_subject(recorded):
    subject = Subject.open(recorded[0], recorded[1][2])
    assert isinstance(subject.borders, Borders) and subject.borders is subject.borders
