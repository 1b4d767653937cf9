import pytest
import torch
from models_for_tests import KINDS, Workspace

from altq.calibration.bank import entry_path, read_entry, read_index, read_residual, write_residual
from altq.experiment.setting import Setting
from altq.quantizers.clipping import LARGEST
from altq.transforms.rotation import random_orthogonal
from altq.transforms.scaling import Scaled

SETTING = Setting(4, 4, 4, 4)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace("llama_gqa", tmp_path_factory.mktemp("bank"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_entry_read_back_is_valid_and_of_its_kind(workspace, kind):
    bank = workspace.bank(SETTING, kind)
    for s in range(4):
        entry = read_entry(bank, s)
        selected = entry.transforms["qkv" if s % 2 == 0 else "gate_up"]
        name = type(selected.online if isinstance(selected, Scaled) else selected).__name__
        assert name.lower() == kind and entry.signed is True
        assert all(transform.check()[0] for transform in entry.transforms.values())
        expected = {"o_proj", "v_proj", "k_proj", "q_proj"} if s % 2 == 0 else {"gate_proj", "up_proj", "down_proj"}
        assert {n.partition(".")[2] for n in entry.clips if n.startswith("weight.")} == expected
        assert all(((clip > 0.2) & (clip <= 1)).all() for clip in entry.clips.values())


def test_reading_a_broken_or_missing_entry_is_a_clear_error(workspace):
    bank = workspace.bank(SETTING, "affine", folder="broken")
    path = entry_path(bank, 1)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        ValueError, match=r"sublayer_001.safetensors cannot be read .*; delete .*index.json and run again"
    ):
        read_entry(bank, 1)
    with pytest.raises(ValueError, match=r"sublayer_007.safetensors cannot be read"):
        read_entry(bank, 7)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("initial", [0.7, 1.0])
def test_an_entry_keeps_its_clips_and_whether_scales_are_signed(workspace, signed, initial):
    options = {"signed_scale": signed, "initial_clip": initial}
    bank = workspace.bank(SETTING, "scaling", folder=f"{signed}-{initial}", **options)
    for s in range(4):
        entry = read_entry(bank, s)
        assert entry.signed is signed and entry.clips
        for clip in entry.clips.values():
            torch.testing.assert_close(clip, torch.full_like(clip, min(initial, LARGEST)), rtol=0, atol=1e-6)


def test_the_index_says_what_a_bank_was_made_for(workspace):
    index = read_index(workspace.bank(SETTING, "scaling", seed=3, folder="seed"))
    assert (index["kind"], index["setting"], index["seed"]) == ("scaling", "W4A4K4V4", 3)


def test_a_residual_rotation_is_read_as_it_was_written(tmp_path):
    assert read_residual(tmp_path) is None
    rotation = random_orthogonal(6, torch.Generator().manual_seed(0)).float()
    write_residual(tmp_path, rotation.T)  # not contiguous
    assert torch.equal(read_residual(tmp_path), rotation.T)
