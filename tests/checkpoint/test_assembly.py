"""From a bank to a checkpoint that runs alone: invariance at 16 bits, and the same quantization as calibration's."""

import re
from pathlib import Path

import pytest
import torch
from models_for_tests import (
    MODELS,
    Workspace,
    logits,
    make_tokens,
    read_checkpoint,
    recipe,
    relative_error,
    transformers_model,
    write_selection,
)  # fmt: skip
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from altq.calibration.bank import RESIDUAL_FILE, entry_path, read_entry, read_residual
from altq.calibration.by_unit import calibrate_bank
from altq.calibration.end_to_end import calibrate_end_to_end
from altq.calibration.fitting import Fitting
from altq.calibration.recording import record_states
from altq.calibration.states import States, run_sublayer, token_weights
from altq.calibration.subject import Subject
from altq.calibration.sublayer import QuantizedSublayer
from altq.checkpoint.assembly import assemble
from altq.checkpoint.format import CHECKPOINT_FILE
from altq.checkpoint.packed_model import load_packed_model
from altq.checkpoint.quantized_model import load_model
from altq.checkpoint.rounding import Inputs, _hessian, round_sublayer, site_inputs
from altq.checkpoint.scheme import Scheme
from altq.experiment.end_to_end_recipe import EndToEndRecipe
from altq.experiment.kinds import HALVES, KINDS
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import FULL_PRECISION, Setting
from altq.models.skeleton import Skeleton
from altq.models.sublayer import Sublayer
from altq.quantizers.packing import packed_length
from altq.quantizers.quantizer import Quantizers
from altq.runtime import precision
from altq.runtime.files import read_json
from altq.selection.selection import Selection

RTN, GPTQ = (RoundingOptions(weights=weights, windows=4, block_size=16) for weights in ("rtn", "gptq"))
MIXTURE = ["affine", "rotation", "rotation", "affine"]
W4A4K4V4 = Setting(4, 4, 4, 4)
SETTINGS = ["W4A4K4V4", "W3A3K2V2", "W4A16K16V16", "W16A4K4V4", "W8A8K16V4"]


@pytest.fixture
def full_products(monkeypatch):
    """No reduced-precision products, which would hide errors of 1e-4."""
    monkeypatch.setattr(precision, "_has_fast_bfloat16", lambda: False)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("start", "kinds"),
    [
        ("balance", ["rotation", "affine", "identity", "hadamard"]),
        ("random", ["affine", "balance", "scaling", "rotation"]),
    ],
    ids=["balance", "random"],
)
def test_at_full_precision_a_mixture_of_kinds_is_the_model(workspaces, name, start, kinds):
    workspace = workspaces(name)
    expected = logits(transformers_model(workspace.model), workspace.tokens)
    model = workspace.quantized(FULL_PRECISION, kinds, RTN, start=start, folder=f"bank-{start}").model
    assert relative_error(logits(model, workspace.tokens), expected) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_at_full_precision_every_kind_is_the_model(workspaces, kind):
    workspace = workspaces("llama_biases")
    expected = logits(transformers_model(workspace.model), workspace.tokens)
    model = workspace.quantized(FULL_PRECISION, 4 * [kind], GPTQ, start="hadamard", folder="every").model
    assert relative_error(logits(model, workspace.tokens), expected) < 1e-4


def fake_quantized_states(workspace, setting, kinds, rounding):
    """What the last block gives where every sublayer is calibration's own, run one after the other."""
    skeleton, states = Skeleton(workspace.model), States(workspace.states)
    hidden, arguments = states.state(0), skeleton.block_arguments(states.length)
    for s, kind in enumerate(kinds):
        sublayer = Sublayer(skeleton.block(s // 2), skeleton.family, HALVES[s % 2])
        entry = read_entry(workspace.folder / "bank" / str(setting) / kind, s)
        quantized = QuantizedSublayer(sublayer, entry.transforms, Quantizers.at(setting, signed=entry.signed))
        quantized.load_clipping_factors(entry.clips)
        weights = token_weights(states.loss, states.state(s + 1))
        inputs = Inputs(hidden, weights, arguments[s // 2])
        round_sublayer(quantized, inputs, outputs=torch.empty_like(hidden), rounding=rounding, name="a sublayer")
        hidden = run_sublayer(quantized.sublayer, hidden, arguments[s // 2])
    return hidden


def share_of_equal_tokens(found, expected):
    """Rounding noise moves a few values over the border of a code: those tokens differ by a step, others by noise."""
    errors = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    return (errors < 1e-4).float().mean().item()


@pytest.mark.parametrize(
    ("name", "text"),
    [*(("llama_biases", text) for text in SETTINGS), ("qwen2", SETTINGS[1]), ("gemma3_text", SETTINGS[0])],
)
def test_a_checkpoint_computes_what_calibration_computes(workspaces, full_products, name, text):
    workspace, setting = workspaces(name), Setting.parse(text)
    quantized = workspace.quantized(setting, MIXTURE, RTN, clip_search=True)
    with torch.no_grad():
        decoder = quantized.model.get_decoder()
        tokens = torch.from_numpy(workspace.tokens).long()
        found = decoder(tokens, use_cache=False).last_hidden_state
        expected = decoder.norm(fake_quantized_states(workspace, setting, MIXTURE, RTN))
        full = transformers_model(workspace.model).get_decoder()(tokens).last_hidden_state
    assert share_of_equal_tokens(found, expected) > 0.8
    assert share_of_equal_tokens(full, expected) < 0.1


def test_gptq_checkpoints_too(workspaces, full_products):
    workspace, setting = workspaces("llama_gqa"), Setting(4, 4, 4, 4)
    model = workspace.quantized(setting, MIXTURE, GPTQ, clip_search=True).model
    with torch.no_grad():
        found = model.get_decoder()(torch.from_numpy(workspace.tokens).long(), use_cache=False).last_hidden_state
        expected = model.get_decoder().norm(fake_quantized_states(workspace, setting, MIXTURE, GPTQ))
    assert share_of_equal_tokens(found, expected) > 0.8


def test_more_bits_are_nearer_to_the_model(workspaces):
    workspace = workspaces("llama_gqa")
    expected = logits(transformers_model(workspace.model), workspace.tokens)
    errors = []
    for bits in (8, 4, 2):
        model = workspace.quantized(Setting(bits, bits, bits, bits), 4 * ["affine"], RTN, clip_search=True).model
        errors.append(relative_error(logits(model, workspace.tokens), expected))
    assert errors[0] < 0.05 and errors == sorted(errors) and errors[2] > 2 * errors[1]


def test_round_to_nearest_without_calibration_neither_transforms_nor_clips(workspaces):
    workspace = workspaces("llama_gqa")
    folder = workspace.checkpoint(Setting(4, 4, 4, 4), 4 * ["identity"], RTN, folder="rtn")
    tensors, original = read_checkpoint(folder), load_file(workspace.model / "model.safetensors")
    for name in ("model.layers.0.self_attn.v_proj", "model.layers.1.mlp.down_proj"):
        scale = original[f"{name}.weight"].abs().amax(1, keepdim=True) / 7
        torch.testing.assert_close(tensors[f"{name}.scale"], scale, rtol=2e-4, atol=0)
    for name, clip in tensors.items():
        assert not name.endswith(".clip") or (clip > 0.999).all(), name
    norm = "model.layers.0.input_layernorm.weight"
    torch.testing.assert_close(tensors[norm], original[norm])


def test_gptq_has_less_output_error_than_round_to_nearest(tmp_path):
    # GPTQ's claim is about the squared error of each layer's output over the inputs that its Hessian is of: sum
    # over tokens of |x (W - Q)^T|^2. It is measured here for every projection, on the calibration inputs themselves.
    # 32 tokens in layers of 36 and 60 channels: correlated inputs, where errors can make up for one another.
    workspace = Workspace("llama_gqa", tmp_path, tokens=make_tokens(windows=4, length=8))
    setting = Setting(3, 4, 16, 16)
    bank = workspace.bank(setting, "affine", clip_search=True)
    skeleton, states = Skeleton(workspace.model), States(workspace.states)
    arguments = skeleton.block_arguments(states.length)
    ratios = {}
    for s in range(4):
        errors = {}
        for rounding in (RTN, GPTQ):
            sublayer = Sublayer(skeleton.block(s // 2), skeleton.family, HALVES[s % 2])
            entry = read_entry(bank, s)
            quantized = QuantizedSublayer(sublayer, entry.transforms, Quantizers.at(setting, signed=entry.signed))
            quantized.load_clipping_factors(entry.clips)
            with torch.no_grad():
                folded = quantized.folded_weights()
                quantized.prepare()
                weights = token_weights(states.loss, states.state(s + 1))
                # The Hessians of the site inputs before anything is rounded by GPTQ: the same for both.
                given = Inputs(states.state(s), weights, arguments[s // 2])
                inputs = {site: site_inputs(quantized, site, given) for site in quantized.sites}
                hessians = {site: _hessian(read, weights) for site, read in inputs.items()}
                outputs = torch.empty_like(given.hidden)
                rounded = round_sublayer(quantized, given, outputs=outputs, rounding=rounding, name="a sublayer")
            for site, names in quantized.sites.items():
                for name in names:
                    codes, scale = rounded[name]
                    difference = codes * scale - folded[name]
                    errors[rounding.weights, name] = ((difference @ hessians[site]) * difference).sum().item()
        for name in quantized.weights:
            ratios[s, name] = errors["gptq", name] / errors["rtn", name]
    # Later sites see what the earlier ones of the sublayer became, so single ratios may pass one; q, k, v may not.
    assert all(ratio < 1 for (s, name), ratio in ratios.items() if name.split(".")[1] in ("q_proj", "k_proj", "v_proj"))
    assert sum(ratios.values()) / len(ratios) < 0.8


def test_a_checkpoint_runs_without_its_model(workspaces, tmp_path):
    workspace = Workspace("qwen2", tmp_path)  # tied embeddings, biases
    quantized = workspace.quantized(Setting(4, 4, 4, 4), MIXTURE, GPTQ)
    expected = logits(quantized.model, workspace.tokens)
    for folder in ("model", "states", "bank"):
        (tmp_path / folder).rename(tmp_path / f"moved-{folder}")
    assert torch.equal(logits(load_model(quantized.folder), workspace.tokens), expected)


def test_a_checkpoint_is_small_and_says_how_it_was_made(workspaces):
    workspace, setting = workspaces("llama_gqa"), Setting(3, 4, 4, 4)
    folder = workspace.checkpoint(setting, MIXTURE, RTN)
    labels, description = read_json(folder / CHECKPOINT_FILE), read_json(folder / "config.json")["quantization_config"]
    assert labels["setting"] == description["setting"] == "W3A4K4V4" and labels["policy"] == "test"
    assert description["quant_method"] == "altq"
    assert description["blocks"][0]["attention"]["sites"]["qkv"]["type"] == "Affine"
    assert description["blocks"][0]["ffn"]["sites"]["gate_up"]["type"] == "Rotation"
    tensors = read_checkpoint(folder)
    codes = tensors["model.layers.0.mlp.down_proj.codes"]
    assert codes.dtype == torch.uint8 and codes.shape == (36, packed_length(60, 3))
    assert "model.layers.0.mlp.down_proj.weight" not in tensors


def test_two_assemblies_have_the_same_bytes(workspaces):
    workspace, setting = workspaces("llama_gqa"), Setting(4, 4, 4, 4)
    contents = []
    for _ in range(2):
        folder = workspace.checkpoint(setting, MIXTURE, GPTQ)
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]


def refused(workspace, match, *, kinds=MIXTURE, banks=None, folder="refused", selection=None):
    setting = Setting(4, 4, 4, 4)
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
    bank = workspace.bank(Setting(4, 4, 4, 4), "affine")
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


def rotated_bank(workspace, name, *, setting=W4A4K4V4, seed=0, **options):
    """A bank that stands in a rotated residual stream."""
    folder = workspace.folder / "rotated" / str(setting) / name
    if not (folder / "index.json").exists():
        recipe = EndToEndRecipe(**{"steps": 0, "trained": [], "asymmetric": True} | options)
        fitting = Fitting.end_to_end(setting=setting, seed=seed, recipe=recipe)
        calibrate_end_to_end(workspace.model, workspace.states, fitting, folder, fingerprint="code")
    return folder


def test_banks_of_different_streams_are_refused(workspaces):
    workspace, setting = workspaces("llama_gqa"), Setting(4, 4, 4, 4)
    first, other = (rotated_bank(workspace, f"seed{seed}", seed=seed) for seed in (0, 1))
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
    workspace, setting = workspaces("llama_gqa"), Setting(4, 4, 4, 4)
    bank = workspace.bank(setting, "rotation")
    message = rf"{re.escape(str(bank))} do not go together: the kind of the first is affine, of the second rotation"
    refused(workspace, message, kinds=4 * ["affine"], banks={"affine": bank})
    # Also where the other kind is given as itself beside it.
    refused(workspace, message, banks={"rotation": bank, "affine": bank})
    scaled = rotated_bank(workspace, "of-scalings", trained=["scaling"])
    refused(
        workspace,
        "kind of the first is identity, of the second scaling",
        kinds=4 * ["identity"],
        banks={"identity": scaled},
    )
    plain = rotated_bank(workspace, "of-nothing")
    refused(
        workspace,
        "kind of the first is scaling, of the second identity",
        kinds=4 * ["scaling"],
        banks={"scaling": plain},
    )


def test_banks_of_one_stream_are_mixed(workspaces):
    # Seed by seed the start is the same: QuaRot's and, without a step, OSTQuant's are of one stream.
    workspace = workspaces("llama_gqa")
    banks = {
        "identity": rotated_bank(workspace, "plain", setting=FULL_PRECISION),
        "scaling": rotated_bank(workspace, "scaled", setting=FULL_PRECISION, trained=["scaling"]),
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
    bank = rotated_bank(workspace, "tied", setting=FULL_PRECISION)
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
    bank = rotated_bank(workspace, "bank")
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
    bank = rotated_bank(workspace, f"computes-{'-'.join(options)}", **options)
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


def smollm2(project: Path) -> Path | None:
    folder = project / "results" / "models" / "smollm2"
    return folder if (folder / "model.safetensors").is_file() else None


@pytest.mark.slow
def test_at_full_precision_smollm2_stays_itself(project, tmp_path):
    model = smollm2(project)
    if model is None:
        pytest.skip("results/models/smollm2 has not been fetched")
    tokens = make_tokens(windows=1, length=24) * 97
    expected = logits(transformers_model(model), tokens)
    states = tmp_path / "states"
    record_states(model, tokens, loss="relative", folder=states, fingerprint="test")
    banks = {kind: tmp_path / kind for kind in ("affine", "rotation")}
    for kind, folder in banks.items():
        fitting = Fitting(FULL_PRECISION, kind=kind, seed=0, recipe=recipe())
        calibrate_bank(Subject.open(model, states), fitting, folder, fingerprint="")
    selection = write_selection(30 * ["affine", "rotation"], tmp_path / "selection.json")
    scheme = Scheme(Selection.read(selection), setting=FULL_PRECISION, rounding=RTN, banks=banks)
    assemble(model, states, scheme, tmp_path / "checkpoint", fingerprint="test")
    assert relative_error(logits(load_model(tmp_path / "checkpoint"), tokens), expected) < 1e-4


@pytest.mark.parametrize(("name", "kind"), [("olmo2", "Scaled"), ("gemma2", "Affine")])
def test_a_scaling_stays_online_where_no_norm_lies_before_the_site(workspaces, name, kind):
    workspace = workspaces(name)
    folder = workspace.checkpoint(Setting(4, 4, 4, 4), 4 * ["affine"], RTN, folder="online")
    blocks = read_json(folder / "config.json")["quantization_config"]["blocks"]
    kinds = [
        block[half]["sites"][site]["type"]
        for block in blocks
        for half, site in (("attention", "qkv"), ("ffn", "gate_up"))
    ]
    assert kinds == 4 * [kind]
    if name == "olmo2":
        with pytest.raises(ValueError, match="packed kernels do not know the transform Scaled"):
            load_packed_model(folder)
