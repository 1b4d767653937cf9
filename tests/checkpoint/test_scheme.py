"""A scheme: the labels, entries and the rotation of a checkpoint; banks and selections that do not go together."""

import re

import pytest
import torch
from models_for_tests import Workspace, write_selection
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from altq.calibration.bank import entry_path, read_entry, read_residual
from altq.checkpoint.assembly import assemble
from altq.checkpoint.format import CHECKPOINT_FILE
from altq.checkpoint.scheme import Scheme
from altq.experiment.kinds import HALVES
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.models.sublayer import Sublayer
from altq.selection.selection import Decision, Selection

W4A4K4V4 = Setting(4, 4, 4, 4)
RTN = RoundingOptions(weights="rtn")
MIXTURE = ["affine", "rotation", "rotation", "affine"]


def scheme_of(kinds, **options):
    decisions = tuple(Decision(sublayer, kind, "for a test") for sublayer, kind in enumerate(kinds))
    selection = Selection("kurtosis", "tiny", len(kinds) // 2, decisions)
    return Scheme(selection, setting=W4A4K4V4, rounding=RTN, **options)


def sublayer_of(workspace, s):
    skeleton = workspace.subject().skeleton
    return Sublayer(skeleton.block(s // 2), skeleton.family, HALVES[s % 2])


def test_labels_name_the_policy_where_no_method_is_given():
    common = {"setting": "W4A4K4V4", "weights": "rtn"}
    assert scheme_of(MIXTURE).labels == common | {"method": "kurtosis", "seed": 0}
    assert scheme_of(MIXTURE, method="ours", seed=3).labels == common | {"method": "ours", "seed": 3}


def test_only_identity_needs_no_bank():
    scheme_of(4 * ["identity"]).check(num_blocks=2)
    with pytest.raises(ValueError, match="selection 'kurtosis' names hadamard, but no such bank is given"):
        scheme_of(["identity", "hadamard", "identity", "identity"]).check(num_blocks=2)


def test_identity_without_a_bank_neither_transforms_nor_clips(workspaces):
    workspace = workspaces("llama_gqa")  # 3 heads of keys and values
    for s, sites in enumerate([{"qkv", "o", "key", "value"}, {"gate_up", "down"}]):
        entry = scheme_of(4 * ["identity"]).entry(s, sublayer_of(workspace, s), kv_heads=3)
        assert set(entry.transforms) == sites and entry.clips == {}
        assert not entry.signed and not entry.asymmetric
        for transform in entry.transforms.values():
            assert torch.equal(transform.matrix(), torch.eye(transform.size))


def test_each_entry_is_that_of_its_sublayer_in_the_bank_of_its_kind(workspaces):
    workspace = workspaces("llama_gqa")
    banks = {kind: workspace.bank(W4A4K4V4, kind) for kind in ("affine", "rotation")}
    scheme = scheme_of(MIXTURE, banks=banks)
    for s, kind in enumerate(MIXTURE):
        entry, expected = scheme.entry(s, sublayer_of(workspace, s), kv_heads=3), read_entry(banks[kind], s)
        assert set(entry.transforms) == set(expected.transforms)
        for site, transform in expected.transforms.items():
            assert type(entry.transforms[site]) is type(transform)
            assert torch.equal(entry.transforms[site].matrix(), transform.matrix())


def test_the_rotation_is_that_of_the_banks_and_none_without_one(workspaces):
    workspace = workspaces("llama_gqa")
    bank = workspace.rotated_bank("scheme")
    assert torch.equal(scheme_of(4 * ["identity"], banks={"identity": bank}).rotation(), read_residual(bank))
    assert scheme_of(4 * ["identity"]).rotation() is None
    assert scheme_of(4 * ["affine"], banks={"affine": workspace.bank(W4A4K4V4, "affine")}).rotation() is None


def refused(workspace, match, *, kinds=MIXTURE, banks=None, folder="refused", selection=None):
    setting = W4A4K4V4
    if banks is None:
        banks = {kind: workspace.bank(setting, kind) for kind in set(kinds) - {"identity"}}
    selection = selection or write_selection(kinds, workspace.folder / "refused.json")
    with pytest.raises(ValueError, match=match):
        scheme = Scheme(Selection.read(selection), setting=setting, rounding=RTN, banks=banks)
        assemble(workspace.model, workspace.states, scheme, workspace.folder / folder, fingerprint="test")
    assert not (workspace.folder / folder / CHECKPOINT_FILE).exists()


def test_a_selection_of_another_model_is_refused(workspaces):
    workspace = workspaces("llama_gqa")
    other = write_selection(6 * ["identity"], workspace.folder / "other.json", model="giant")
    refused(workspace, "selection is of 'giant' with 3 blocks, but the model has 2", selection=other)


def test_a_kind_without_a_bank_is_refused(workspaces):
    refused(workspaces("llama_gqa"), "names affine, rotation, but no such bank", banks={})


def test_a_singular_bank_entry_is_refused(workspaces, tmp_path):
    workspace = Workspace("llama_gqa", tmp_path)
    bank = workspace.bank(W4A4K4V4, "affine")
    path = entry_path(bank, 1)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["transform.gate_up.left"].zero_()
    save_file(tensors, path, metadata=metadata)
    given = {"kinds": 4 * ["affine"], "banks": {"affine": bank}}
    refused(workspace, "bank entry of block 0 ffn, site gate_up: .*calibrate it again", **given)
    path.write_bytes(path.read_bytes()[:200])
    refused(workspace, "sublayer_001.safetensors cannot be read", **given)


def test_banks_of_different_streams_are_refused(workspaces):
    workspace, setting = workspaces("llama_gqa"), W4A4K4V4
    first, other = (workspace.rotated_bank(f"seed{seed}", seed=seed) for seed in (0, 1))
    message = r"bank .*{} stands in another rotation of the residual stream; it cannot be mixed in"
    kinds = ["identity", "scaling", "identity", "scaling"]
    refused(workspace, message.format("seed1"), kinds=kinds, banks={"identity": first, "scaling": other})
    # One with and one without, whichever comes first; also where the selection does not name it.
    plain, message = workspace.bank(setting, "affine"), message.format("affine")
    kinds = ["identity", "affine", "identity", "affine"]
    refused(workspace, message, kinds=kinds, banks={"identity": first, "affine": plain})
    refused(workspace, message, kinds=kinds, banks={"affine": plain, "identity": first})
    refused(workspace, message, kinds=4 * ["identity"], banks={"affine": plain, "identity": first})


def test_a_bank_of_another_kind_is_refused(workspaces):
    workspace, setting = workspaces("llama_gqa"), W4A4K4V4
    bank = workspace.bank(setting, "rotation")
    message = rf"{re.escape(str(bank))} do not go together: the kind of the first is affine, of the second rotation"
    refused(workspace, message, kinds=4 * ["affine"], banks={"affine": bank})
    # Also where the other kind is given as itself beside it.
    refused(workspace, message, banks={"rotation": bank, "affine": bank})
    scaled = workspace.rotated_bank("of-scalings", trained=["scaling"])
    refused(
        workspace,
        "kind of the first is identity, of the second scaling",
        kinds=4 * ["identity"],
        banks={"identity": scaled},
    )
    plain = workspace.rotated_bank("of-nothing")
    refused(
        workspace,
        "kind of the first is scaling, of the second identity",
        kinds=4 * ["scaling"],
        banks={"scaling": plain},
    )
