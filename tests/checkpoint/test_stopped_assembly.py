"""An assembly that was stopped goes on at its sublayer, to the same bytes."""

import pytest
from models_for_tests import write_selection
from stopped_for_tests import Stopped, stop_after

from altq.checkpoint import assembly as module
from altq.checkpoint.assembly import assemble
from altq.checkpoint.scheme import Scheme
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.selection.selection import Selection

RTN, GPTQ = (RoundingOptions(weights=weights, windows=4, block_size=16) for weights in ("rtn", "gptq"))
MIXTURE = ["affine", "rotation", "rotation", "affine"]


def asked(workspaces, folder, rounding):
    """What is assembled from what."""
    workspace, setting = workspaces("llama_gqa"), Setting(4, 4, 4, 4)
    banks = {kind: workspace.bank(setting, kind) for kind in set(MIXTURE)}
    selection = write_selection(MIXTURE, folder / "selection.json")
    scheme = Scheme(Selection.read(selection), setting=setting, rounding=rounding, banks=banks)
    return workspace.model, workspace.states, scheme


@pytest.mark.parametrize("stopped_at", range(4))
@pytest.mark.parametrize("rounding", [RTN, GPTQ], ids=["rtn", "gptq"])
def test_a_stopped_assembly_goes_on_to_the_same_bytes(workspaces, tmp_path, monkeypatch, rounding, stopped_at):
    what = asked(workspaces, tmp_path, rounding)
    assemble(*what, tmp_path / "whole", fingerprint="test")
    expected = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    rounded = stop_after(monkeypatch, module, "round_sublayer", stopped_at)
    with pytest.raises(Stopped):
        assemble(*what, tmp_path / "stopped", fingerprint="test")
    assert not (tmp_path / "stopped" / "quantization.json").exists()
    assemble(*what, tmp_path / "stopped", fingerprint="test")
    assert len(rounded) == 4  # none twice
    assert {path.name: path.read_bytes() for path in (tmp_path / "stopped").iterdir()} == expected


def test_what_was_begun_from_other_inputs_is_not_gone_on_with(workspaces, tmp_path, monkeypatch):
    what = asked(workspaces, tmp_path, GPTQ)
    rounded = stop_after(monkeypatch, module, "round_sublayer", 3)
    with pytest.raises(Stopped):
        assemble(*what, tmp_path / "checkpoint", fingerprint="before")
    rounded.clear()
    assemble(*what, tmp_path / "checkpoint", fingerprint="after")
    assert len(rounded) == 4
