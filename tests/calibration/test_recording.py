"""Recording states: bytes, refusals, and going on after a stop, whichever borders are stored."""

import pytest
from models_for_tests import Workspace, make_tokens, save_tiny_model
from safetensors.torch import load_file, save_file
from stopped_for_tests import Stopped, stop_after

from altq.calibration import recording as module
from altq.calibration.recording import record_states
from altq.runtime import files


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace("qwen3", tmp_path_factory.mktemp("recording"))


def test_two_recordings_have_the_same_bytes(workspace, tmp_path):
    record_states(workspace.model, workspace.tokens, loss=workspace.loss, folder=tmp_path, fingerprint="test")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {path.name for path in workspace.states.iterdir()}
    for name in names:
        assert (tmp_path / name).read_bytes() == (workspace.states / name).read_bytes(), name


def test_nan_weights_are_refused_and_no_index_is_left(tmp_path):
    model = save_tiny_model("llama_gqa", tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="state after sublayer 3 is not finite"):
        record_states(model, make_tokens(), loss="relative", folder=tmp_path / "states", fingerprint="test")
    assert not (tmp_path / "states" / "states.json").exists()


def test_a_full_disk_is_refused_before_any_work(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    with pytest.raises(OSError, match="no disk space"):
        record_states(workspace.model, workspace.tokens, loss="mse", folder=tmp_path / "states", fingerprint="test")
    assert not list((tmp_path / "states").iterdir())


@pytest.mark.parametrize(
    ("border_every", "stopped_at", "again"), [(1, 0, 0), (1, 1, 0), (1, 2, 0), (1, 3, 0), (2, 3, 3), (5, 0, 0)]
)
def test_a_stopped_recording_goes_on_to_the_same_bytes(
    workspace, tmp_path, monkeypatch, border_every, stopped_at, again
):
    """`again`: sublayers since the border that was stored last, which are passed a second time."""

    def record(name, fingerprint="test", border_every=border_every):
        options = {"loss": workspace.loss, "folder": tmp_path / name, "border_every": border_every}
        record_states(workspace.model, workspace.tokens, fingerprint=fingerprint, **options)

    record("whole")
    expected = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    seen = stop_after(monkeypatch, module, "observe", stopped_at)
    with pytest.raises(Stopped):
        record("stopped")
    assert not (tmp_path / "stopped" / "states.json").exists()
    record("stopped", border_every="auto")  # with which borders it began is what counts
    assert (
        len(seen) == 4 + again
        and {path.name: path.read_bytes() for path in (tmp_path / "stopped").iterdir()} == expected
    )
    seen.clear()
    record("stopped", "other inputs")
    assert len(seen) == 4
