"""Weights with a scale, and a zero point, for each group of channels: from the bank to the model that runs."""

import numpy as np
import pytest
import torch
from models_for_tests import (
    Workspace,
    logits,
    perplexity_losses,
    read_checkpoint,
    relative_error,
    transformers_model,
    write_selection,
)  # fmt: skip

from altq.calibration.bank import read_entry
from altq.checkpoint.assembly import assemble
from altq.checkpoint.quantized_model import load_model, open_model
from altq.checkpoint.scheme import Scheme
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.quantizers.quantizer import Quantizer
from altq.runtime import precision
from altq.runtime.files import read_json
from altq.selection.selection import Selection

ROUNDINGS = {weights: RoundingOptions(weights=weights, windows=4, block_size=16) for weights in ("rtn", "gptq")}


@pytest.fixture
def full_products(monkeypatch):
    """No reduced-precision products, which would hide errors of 1e-4."""
    monkeypatch.setattr(precision, "_has_fast_bfloat16", lambda: False)


def make_checkpoint(workspace, setting, rounding, kind="identity", **options):
    """A checkpoint of one kind everywhere, from a bank of its own."""
    bank = workspace.bank(setting, kind, other_sites="scaling", folder=f"bank-{sorted(options.items())}", **options)
    selection = Selection.read(write_selection(4 * [kind], workspace.folder / "selection.json"))
    scheme = Scheme(selection, setting=setting, rounding=rounding, banks={kind: bank})
    folder = workspace.folder / f"{setting}-{rounding.weights}-{sorted(options.items())}-{kind}"
    assemble(workspace.model, workspace.states, scheme, folder, fingerprint="test")
    return folder


def unpacked(packed, bits, length):
    """Codes from their definition: element 0 in the lowest bits, a plane of two bits and one of signs for three."""
    bytes_ = packed.numpy()
    planes, first, shift = {2: (2,), 3: (2, 1), 4: (4,)}[bits], 0, 0
    codes = np.zeros((len(bytes_), length), dtype=np.int64)
    for width in planes:
        size = -(-length * width // 8)
        for k in range(length):
            codes[:, k] |= (bytes_[:, first + k * width // 8] >> (k * width % 8) & ((1 << width) - 1)).astype(
                int
            ) << shift
        first, shift = first + size, shift + width
    return np.where(codes >= 1 << (bits - 1), codes - (1 << bits), codes)


def reference_model(workspace, folder, setting):
    """transformers' own model with the weights that a checkpoint's files say, computed in float64."""
    tensors, model = read_checkpoint(folder), transformers_model(workspace.model)
    plain = {name: t for name, t in tensors.items() if name.endswith((".weight", ".bias"))}
    assert set(plain) <= set(model.state_dict())
    model.load_state_dict(plain, strict=False)
    names = [name.removesuffix(".codes") for name in tensors if name.endswith(".codes")]
    assert len(names) == 14
    for name in names:
        width = int(tensors[f"{name}.length"])
        codes = unpacked(tensors[f"{name}.codes"], setting.weights, width)
        scale = tensors[f"{name}.scale"].double().numpy()
        group = np.arange(width) // (setting.group or width)
        if f"{name}.zero" in tensors:
            codes = codes - unpacked(tensors[f"{name}.zero"], setting.weights, scale.shape[1])[:, group]
        model.get_submodule(name).weight.data.copy_(torch.from_numpy(codes * scale[:, group]))
    return model


@pytest.mark.parametrize("weights", ROUNDINGS)
@pytest.mark.parametrize("zero_point", [False, True])
@pytest.mark.parametrize("text", ["W2A16g8", "W3A16g7", "W4A16g36", "W4A16"])  # 36 and 60 channels: short last groups
def test_it_runs_as_its_files_say(workspaces, full_products, text, zero_point, weights):
    workspace, setting = workspaces("llama_gqa"), Setting.parse(text)
    folder = make_checkpoint(workspace, setting, ROUNDINGS[weights], zero_point=zero_point, clip_search=True)
    tensors = read_checkpoint(folder)
    assert any(name.endswith(".zero") for name in tensors) == zero_point
    expected = logits(reference_model(workspace, folder, setting), workspace.tokens)
    assert relative_error(logits(load_model(folder), workspace.tokens), expected) < 1e-5
    full = logits(transformers_model(workspace.model), workspace.tokens)
    assert relative_error(full, expected) > 1e-3


@pytest.mark.parametrize("name", ["qwen2", "gemma3_text"])
def test_other_families_too(workspaces, full_products, name):
    workspace, setting = workspaces(name), Setting.parse("W4A16g16")
    folder = make_checkpoint(workspace, setting, ROUNDINGS["gptq"], kind="scaling", scaling="ones")
    expected = logits(reference_model(workspace, folder, setting), workspace.tokens)
    assert relative_error(logits(load_model(folder), workspace.tokens), expected) < 1e-5


@pytest.mark.parametrize("text", ["W2A16g4", "W4A16g2"])
@pytest.mark.parametrize("zero_point", [False, True])
def test_its_size_is_that_of_its_average_bits(workspaces, text, zero_point):
    workspace, setting = workspaces("llama_tied"), Setting.parse(text)  # 32 and 44 channels: whole groups
    folder = make_checkpoint(workspace, setting, ROUNDINGS["rtn"], zero_point=zero_point)
    size = {"codes": 0, "scale": 0, "zero": 0}
    for name, tensor in read_checkpoint(folder).items():
        if (leaf := name.rpartition(".")[2]) in size:
            size[leaf] += tensor.nbytes
    blocks = transformers_model(workspace.model).model.layers
    weights = sum(module.weight.numel() for module in blocks.modules() if isinstance(module, torch.nn.Linear))
    assert 8 * (size["codes"] + size["scale"]) == weights * setting.average_bits
    zero_points = weights / setting.group * setting.weights if zero_point else 0
    assert zero_points <= 8 * size["zero"] <= 1.2 * zero_points, "each row is filled up to whole bytes"


def test_smaller_groups_and_zero_points_are_nearer_to_the_model(workspaces):
    workspace = workspaces("llama_gqa")
    expected, errors = logits(transformers_model(workspace.model), workspace.tokens), []
    for text, zero_point in (("W3A16", False), ("W3A16g12", False), ("W3A16g4", False), ("W3A16g4", True)):
        folder = make_checkpoint(
            workspace, Setting.parse(text), ROUNDINGS["gptq"], zero_point=zero_point, clip_search=True
        )
        errors.append(relative_error(logits(load_model(folder), workspace.tokens), expected))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.7 * errors[0]


def test_a_bank_keeps_the_clips_of_groups(workspaces):
    workspace, setting = workspaces("llama_gqa"), Setting.parse("W3A4K4V4g8")
    entry = read_entry(workspace.bank(setting, "affine", steps=1, clip_search=True, zero_point=True), 0)
    clips = {name.partition(".")[2]: clip for name, clip in entry.clips.items() if name.startswith("weight.")}
    assert {name: tuple(clip.shape) for name, clip in clips.items()} == {
        "q_proj": (36, 5, 2), "k_proj": (18, 5, 2), "v_proj": (18, 5, 2), "o_proj": (36, 5, 2)
    }  # fmt: skip
    (sublayer,) = workspace.subject().sublayers([0])
    restored = entry.restore(sublayer, setting)
    assert restored.quantizers.weights == Quantizer(3, signed=True, asymmetric=True, group=8)
    for name, clip in clips.items():
        torch.testing.assert_close(restored.weight_clip[name]().detach(), clip, rtol=0, atol=1e-5)


def test_the_perplexity_block_by_block_is_that_of_the_whole_model(workspaces):
    workspace = workspaces("llama_gqa")
    folder = make_checkpoint(workspace, Setting.parse("W2A16g8"), ROUNDINGS["gptq"], clip_search=True)
    losses = perplexity_losses(open_model(folder), workspace.tokens)
    outputs = logits(load_model(folder), workspace.tokens)[:, :-1].double()
    targets = torch.from_numpy(workspace.tokens).long()[:, 1:]
    expected = torch.nn.functional.cross_entropy(outputs.mT, targets, reduction="none").sum(1)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_a_group_wider_than_an_input_is_refused_by_name(tmp_path):
    workspace = Workspace("llama_gqa", tmp_path)
    with pytest.raises(
        ValueError, match=r"q_proj: a group of 37 channels is wider than the 36 channels.*smaller group"
    ):
        workspace.bank(Setting.parse("W4A16g37"), "affine")
    with pytest.raises(ValueError, match=r"q_proj: a group of 37 channels"):
        workspace.checkpoint(Setting.parse("W4A16g37"), 4 * ["identity"], ROUNDINGS["rtn"])


def test_only_a_checkpoint_with_zero_points_says_so(workspaces):
    workspace, setting = workspaces("llama_gqa"), Setting.parse("W4A16g12")
    for zero_point in (False, True):
        folder = make_checkpoint(workspace, setting, ROUNDINGS["rtn"], zero_point=zero_point)
        content = read_json(folder / "config.json")["quantization_config"]
        assert content["setting"] == "W4A16K16V16g12"
        assert content["blocks"][0]["ffn"].get("zero_point", False) == zero_point
        assert ("zero_point" in content["blocks"][0]["ffn"]) == zero_point
