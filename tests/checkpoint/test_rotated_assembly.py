"""Checkpoints of banks that stand in a rotated residual stream: nothing but the quantization is left of the rotation."""

import pytest
import torch
from models_for_tests import (
    Workspace,
    logits,
    read_checkpoint,
    relative_error,
    share_of_equal_tokens,
    transformers_model,
    write_selection,
)
from safetensors.torch import load_file

from altq.calibration.bank import RESIDUAL_FILE, read_entry, read_residual
from altq.calibration.states import States, run_sublayer, token_weights
from altq.calibration.sublayer import QuantizedSublayer
from altq.checkpoint.assembly import assemble
from altq.checkpoint.quantized_model import load_model
from altq.checkpoint.rounding import Inputs, round_sublayer
from altq.checkpoint.scheme import Scheme
from altq.experiment.kinds import HALVES
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import FULL_PRECISION, Setting
from altq.models.skeleton import Skeleton
from altq.models.sublayer import Sublayer
from altq.quantizers.quantizer import Quantizers
from altq.runtime.files import read_json
from altq.selection.selection import Selection

RTN, GPTQ = (RoundingOptions(weights=weights, windows=4, block_size=16) for weights in ("rtn", "gptq"))


def test_banks_of_one_stream_are_mixed(workspaces):
    # Seed by seed the start is the same: QuaRot's and, without a step, OSTQuant's are of one stream.
    workspace = workspaces("llama_gqa")
    banks = {
        "identity": workspace.rotated_bank("plain", setting=FULL_PRECISION),
        "scaling": workspace.rotated_bank("scaled", setting=FULL_PRECISION, trained=["scaling"]),
    }
    assert torch.equal(*map(read_residual, banks.values()))
    selection = write_selection(["identity", "scaling", "scaling", "identity"], workspace.folder / "mixed.json")
    folder = workspace.folder / "mixed"
    scheme = Scheme(Selection.read(selection), setting=FULL_PRECISION, rounding=RTN, banks=banks)
    assemble(workspace.model, workspace.states, scheme, folder, fingerprint="test")
    expected = logits(transformers_model(workspace.model), workspace.tokens)
    assert relative_error(logits(load_model(folder), workspace.tokens), expected) < 1e-4


def test_a_rotation_of_the_stream_unties_the_head(workspaces):
    workspace = workspaces("llama_tied")
    bank = workspace.rotated_bank("tied", setting=FULL_PRECISION)
    selection = write_selection(4 * ["identity"], workspace.folder / "tied.json")
    folder = workspace.folder / "untied"
    scheme = Scheme(Selection.read(selection), setting=FULL_PRECISION, rounding=RTN, banks={"identity": bank})
    assemble(workspace.model, workspace.states, scheme, folder, fingerprint="test")
    assert read_json(workspace.model / "config.json")["tie_word_embeddings"] is True
    assert read_json(folder / "config.json")["tie_word_embeddings"] is False
    tensors, original = read_checkpoint(folder), load_file(workspace.model / "model.safetensors")
    embedding, gain = (original[f"model.{name}.weight"].double() for name in ("embed_tokens", "norm"))
    rotation = read_residual(bank).double()
    assert "lm_head.weight" not in original
    for name, expected in {
        "lm_head.weight": embedding * gain @ rotation,
        "model.embed_tokens.weight": embedding @ rotation,
        "model.norm.weight": torch.ones(32).double(),
    }.items():
        torch.testing.assert_close(tensors[name].double(), expected, rtol=1e-6, atol=1e-6)
    model = load_model(folder)
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    expected = logits(transformers_model(workspace.model), workspace.tokens)
    assert relative_error(logits(model, workspace.tokens), expected) < 1e-4
    # Without one it stays tied, and untied stays untied.
    kept = workspace.checkpoint(FULL_PRECISION, 4 * ["affine"], RTN, folder="kept")
    assert read_json(kept / "config.json")["tie_word_embeddings"] is True
    assert "lm_head.weight" not in read_checkpoint(kept)
    model = load_model(kept)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    other = workspaces("llama_gqa")
    kept = other.checkpoint(FULL_PRECISION, 4 * ["affine"], RTN, folder="kept")
    assert read_json(kept / "config.json")["tie_word_embeddings"] is False


def test_without_its_rotation_a_bank_is_still_the_model_but_rotations_are_not_lost(workspaces, tmp_path):
    # Entries are of a stream only in what they quantize; what assembly reads beside them decides on the stream.
    workspace = Workspace("llama_gqa", tmp_path)
    bank = workspace.rotated_bank("bank")
    selection = write_selection(4 * ["identity"], tmp_path / "selection.json")
    folders = [tmp_path / "with", tmp_path / "without"]
    scheme = Scheme(Selection.read(selection), setting=Setting(4, 4, 4, 4), rounding=RTN, banks={"identity": bank})
    assemble(workspace.model, workspace.states, scheme, folders[0], fingerprint="test")
    (bank / RESIDUAL_FILE).unlink()
    scheme = Scheme(Selection.read(selection), setting=Setting(4, 4, 4, 4), rounding=RTN, banks={"identity": bank})
    assemble(workspace.model, workspace.states, scheme, folders[1], fingerprint="test")
    found = [logits(load_model(folder), workspace.tokens) for folder in folders]
    assert relative_error(*found) > 0.01


@pytest.mark.parametrize("options", [{}, {"trained": ["scaling"]}, {"asymmetric": False}], ids=str)
@pytest.mark.parametrize("rounding", [RTN, GPTQ], ids=["rtn", "gptq"])
def test_a_rotated_checkpoint_computes_what_calibration_computes(workspaces, full_products, options, rounding):
    workspace, setting = workspaces("llama_biases"), Setting(4, 4, 4, 4)
    bank = workspace.rotated_bank(f"computes-{'-'.join(options)}", **options)
    kind = "scaling" if "trained" in options else "identity"
    selection = write_selection(4 * [kind], workspace.folder / "selection.json")
    folder = workspace.folder / "computes"
    scheme = Scheme(Selection.read(selection), setting=setting, rounding=rounding, banks={kind: bank})
    assemble(workspace.model, workspace.states, scheme, folder, fingerprint="test")
    skeleton, states = Skeleton(workspace.model, rotation=read_residual(bank)), States(workspace.states)
    hidden, arguments = skeleton.embed(states.tokens()), skeleton.block_arguments(states.length)
    for s in range(4):
        sublayer = Sublayer(skeleton.block(s // 2), skeleton.family, HALVES[s % 2])
        entry = read_entry(bank, s)
        assert entry.asymmetric == options.get("asymmetric", True)
        kept = {"signed": entry.signed, "asymmetric": entry.asymmetric}
        quantized = QuantizedSublayer(sublayer, entry.transforms, Quantizers.at(setting, **kept))
        quantized.load_clipping_factors(entry.clips)
        weights = token_weights(states.loss, states.state(s + 1))
        inputs = Inputs(hidden, weights, arguments[s // 2])
        round_sublayer(quantized, inputs, outputs=torch.empty_like(hidden), rounding=rounding, name="a sublayer")
        hidden = run_sublayer(quantized.sublayer, hidden, arguments[s // 2])
    with torch.no_grad():
        decoder = load_model(folder).get_decoder()
        found = decoder(torch.from_numpy(workspace.tokens).long(), use_cache=False).last_hidden_state
        expected = decoder.norm(hidden)
    assert share_of_equal_tokens(found, expected) > 0.8
    described = read_json(folder / "config.json")["quantization_config"]["blocks"]
    assert all(half["asymmetric"] == options.get("asymmetric", True) for block in described for half in block.values())
