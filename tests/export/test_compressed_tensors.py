"""Checkpoints as compressed-tensors: in a process without altq, transformers gives altq's logits to the bit."""

import json
import re

import numpy as np
import pytest
import torch
from models_for_tests import Workspace, logits, write_selection

from altq.checkpoint.assembly import assemble
from altq.checkpoint.quantized_model import load_model
from altq.checkpoint.scheme import Scheme
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.selection.selection import Selection

RTN = RoundingOptions(weights="rtn", windows=4)
GPTQ = RoundingOptions(weights="gptq", windows=4, block_size=16)
STOCK = """
import json, sys
import numpy as np, torch
from transformers import AutoModelForCausalLM
for folder in sys.argv[2:]:
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"], report
    tokens = torch.from_numpy(np.load(sys.argv[1])).long()
    with torch.no_grad():
        np.save(folder + "/logits.npy", model(tokens, use_cache=False).logits.numpy())
    made = model.generate(tokens[:, :4], max_new_tokens=6, do_sample=False, pad_token_id=0)
    np.save(folder + "/made.npy", made.numpy())
print([name for name in sys.modules if name.split(".")[0] == "altq"])
"""
CASES = {
    "rows": ("llama_gqa", "W4A16", RTN, {"kind": "identity"}),
    "groups": ("llama_tied", "W2A16g4", GPTQ, {"kind": "scaling", "scaling": "ones"}),
    "three_bits": ("qwen2", "W3A16g12", GPTQ, {"kind": "identity"}),
    "biases": ("llama_biases", "W8A16", RTN, {"kind": "identity"}),
    "folded": ("gemma3_text", "W4A16g8", GPTQ, {"kind": "scaling", "scaling": "smooth"}),
    "fused": ("phi3", "W4A16g4", RTN, {"kind": "identity"}),
}


def make_checkpoint(workspace, text, rounding, *, kind, **options):
    setting = Setting.parse(text)
    bank = workspace.bank(setting, kind, other_sites="scaling", clip_search=True, folder=f"bank{options}", **options)
    selection = Selection.read(write_selection(4 * [kind], workspace.folder / "selection.json"))
    folder = workspace.folder / f"checkpoint-{text}-{kind}"
    scheme = Scheme(selection, setting=setting, rounding=rounding, banks={kind: bank})
    assemble(workspace.model, workspace.states, scheme, folder, fingerprint="test")
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory, altq, run_python):
    """case -> (checkpoint, tokens, folder that stock transformers has read)."""
    root, made = tmp_path_factory.mktemp("exported"), {}
    for case, (name, text, rounding, options) in CASES.items():
        workspace = Workspace(name, root / case)
        checkpoint = make_checkpoint(workspace, text, rounding, **options)
        made[case] = checkpoint, workspace.tokens, root / f"{case}-exported"
        result = altq("export", checkpoint, "--format", "compressed-tensors", "--output", made[case][2], folder=root)
        assert result.returncode == 0, result.stderr
    np.save(root / "tokens.npy", workspace.tokens)
    result = run_python("-c", STOCK, root / "tokens.npy", *(folder for *_, folder in made.values()), folder=root)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"
    return made


@pytest.mark.parametrize("case", CASES)
def test_stock_transformers_gives_altqs_logits_to_the_bit(exported, case):
    checkpoint, tokens, folder = exported[case]
    expected = logits(load_model(checkpoint), tokens)
    assert np.abs(np.load(folder / "logits.npy") - expected.numpy()).max() == 0


@pytest.mark.parametrize("case", CASES)
def test_stock_transformers_generates_what_altq_generates(exported, case):
    checkpoint, tokens, folder = exported[case]
    model = load_model(checkpoint)
    made = model.generate(torch.from_numpy(tokens[:, :4]).long(), max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert np.array_equal(np.load(folder / "made.npy"), made.numpy())


def test_the_description_says_what_the_weights_are(exported):
    schemes = {
        case: json.loads((folder / "config.json").read_text())["quantization_config"]["config_groups"]["group_0"]
        for case, (*_, folder) in exported.items()
    }
    assert schemes["rows"]["weights"] == {
        "num_bits": 4, "type": "int", "symmetric": True, "strategy": "channel", "group_size": None
    }  # fmt: skip
    assert schemes["three_bits"]["weights"] == {
        "num_bits": 3, "type": "int", "symmetric": True, "strategy": "group", "group_size": 12
    }  # fmt: skip


def refused(altq, workspace, checkpoint, message):
    output = workspace.folder / "refused"
    result = altq("export", checkpoint, "--format", "compressed-tensors", "--output", output, folder=workspace.folder)
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert re.search(message, result.stderr), result.stderr
    assert not output.exists()


def test_what_stands_in_the_way_is_named_all_at_once(workspaces, altq):
    workspace = workspaces("llama_gqa")
    checkpoint = workspace.checkpoint(Setting(4, 4, 3, 2), ["affine", "rotation", "affine", "identity"], RTN)
    refused(
        altq, workspace, checkpoint,
        "activations are quantized to 4 bits; its keys and values are quantized to 3 and 2 bits; transforms stay .*"
        "Affine at qkv, HeadMixing at o, Rotation at gate_up, .* at down",
    )  # fmt: skip


def test_weights_that_are_not_quantized_are_refused(workspaces, altq):
    workspace = workspaces("llama_gqa")
    checkpoint = workspace.checkpoint(Setting(16, 16, 16, 4), ["identity"] * 4, RTN)
    refused(altq, workspace, checkpoint, "its weights are not quantized; its keys and values")


def test_a_short_last_group_is_refused_by_name(workspaces, altq):
    workspace = workspaces("llama_gqa")
    checkpoint = workspace.checkpoint(Setting.parse("W4A16g16"), ["identity"] * 4, RTN)
    refused(altq, workspace, checkpoint, r"layers.0.self_attn.q_proj has 36 input channels, which groups of 16 do not")


def test_zero_points_are_refused(workspaces, altq):
    workspace = workspaces("llama_gqa")
    checkpoint = make_checkpoint(workspace, "W4A16g4", RTN, kind="identity", zero_point=True)
    refused(altq, workspace, checkpoint, "has weights with zero points, which transformers does not load")


def test_a_model_is_refused_and_a_folder_in_use_is_left_alone(workspaces, altq):
    workspace = workspaces("llama_gqa")
    refused(altq, workspace, workspace.model, "is no checkpoint of altq")
    checkpoint = workspace.checkpoint(Setting.parse("W4A16"), ["identity"] * 4, RTN)
    (workspace.folder / "used").mkdir()
    result = altq("export", checkpoint, "--format", "compressed-tensors", "--output", "used", folder=workspace.folder)
    assert result.returncode == 1 and "used is there already" in result.stderr
    assert not [*(workspace.folder / "used").iterdir()]
