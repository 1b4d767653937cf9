"""QuaRot's checkpoint against its paper (arXiv 2404.00456) written out with dense matrices and a plain forward pass.

Rounding is discontinuous: where float32 and float64 disagree in the last bits of a value next to the border of a code,
that code differs by one, and with it all that later tokens of the window make of it. So tokens are counted: nearly all
have equal logits up to rounding, and next to none do where the reference leaves out one ingredient. At 16 bits, where
nothing jumps, all logits are equal.
"""

import pytest
import torch
from models_for_tests import MODELS, Workspace, logits, relative_error, write_selection
from safetensors.torch import load_file
from transformers import LlamaConfig

from altq.calibration.bank import read_entry, read_residual
from altq.calibration.end_to_end import calibrate_end_to_end
from altq.calibration.fitting import Fitting
from altq.checkpoint.assembly import assemble
from altq.checkpoint.quantized_model import load_model
from altq.checkpoint.scheme import Scheme
from altq.experiment.baselines import QUAROT
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import FULL_PRECISION, Setting
from altq.runtime.files import read_json
from altq.selection.selection import Selection

W4A4K4V4 = Setting(4, 4, 4, 4)
HADAMARD = {"hidden_size": 32, "intermediate_size": 64, "heads": (4, 2)}


@pytest.fixture(scope="module", params=["hadamard", "llama_gqa"])
def workspace(request, tmp_path_factory):
    """One model whose sizes all have Hadamard matrices of a power of two, and one where 6, 10 and 30 have none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "hadamard", (LlamaConfig, HADAMARD))
        workspace = Workspace(request.param, tmp_path_factory.mktemp(request.param))
    workspace.name = request.param
    return workspace


def quarot(workspace, setting):
    """(bank, model) of QuaRot, its weights rounded to nearest."""
    bank, folder = workspace.folder / f"bank-{setting}", workspace.folder / f"checkpoint-{setting}"
    if not folder.exists():
        fitting = Fitting.end_to_end(setting=setting, seed=3, recipe=QUAROT)
        calibrate_end_to_end(workspace.model, workspace.states, fitting, bank, fingerprint="code")
        selection = write_selection(4 * ["identity"], workspace.folder / "selection.json")
        rounding = RoundingOptions(weights="rtn", windows=4)
        banks = {"identity": bank}
        scheme = Scheme(Selection.read(selection), setting=setting, rounding=rounding, banks=banks)
        assemble(workspace.model, workspace.states, scheme, folder, fingerprint="test")
    return bank, load_model(folder)


def sylvester(size):
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / size**0.5


def symmetric(x, clip, bits):
    scale = clip * x.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    return (x / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale


def asymmetric(x, clip, bits):
    low, high = x.amin(-1, keepdim=True).clamp(max=0) * clip, x.amax(-1, keepdim=True).clamp(min=0) * clip
    scale = (high - low) / (2**bits - 1)
    zero = (-low / scale).round()
    return ((x / scale).round() + zero).clamp(0, 2**bits - 1) * scale - zero * scale


class Reference:
    """The rotated and quantized model in float64. `change` replaces ingredients; `bits` None quantizes nothing."""

    def __init__(self, workspace, bank, bits, **change):
        self.config = read_json(workspace.model / "config.json")
        self.tensors = {name: t.double() for name, t in load_file(workspace.model / "model.safetensors").items()}
        self.heads, self.kv_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        self.head_dim = self.config.get("head_dim") or self.config["hidden_size"] // self.heads
        self.residual = read_residual(bank).double()
        self.bits, self.change = bits, {"activation_clip": 0.9, "cache_clip": 0.95, "cache": asymmetric} | change
        self.entries = [read_entry(bank, s) for s in range(4)]

    def matrix(self, name, matrix):
        """One of the online maps, dense; the identity where the reference is told to leave it out."""
        matrix = matrix.detach().double()
        return torch.eye(len(matrix)).double() if name in self.change.get("without", ()) else matrix

    def weight(self, s, name, weight):
        """Rounded to nearest, each row with the clipping factor that the bank has for it."""
        if self.bits is None:
            return weight
        return symmetric(weight, self.entries[s].clips[f"weight.{name}"].double(), self.bits)

    def read(self, x):
        return x if self.bits is None else symmetric(x, self.change["activation_clip"], self.bits)

    def cached(self, x):
        return x if self.bits is None else self.change["cache"](x, self.change["cache_clip"], self.bits)

    def norm(self, x):
        return x / (x.square().mean(-1, keepdim=True) + self.config["rms_norm_eps"]).sqrt()

    def rotary(self, x):
        """[windows, heads, length, head_dim]."""
        half = self.head_dim // 2
        theta = self.config.get("rope_theta") or self.config["rope_parameters"]["rope_theta"]
        frequencies = theta ** (-torch.arange(half).double() / half)
        angles = torch.arange(x.shape[-2]).double().unsqueeze(1) * frequencies
        first, second = x[..., :half], x[..., half:]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    def attention(self, s, h):
        block, transforms = f"model.layers.{s // 2}.", self.entries[s].transforms
        gain = torch.diag(self.tensors[f"{block}input_layernorm.weight"])
        q, k, v, o = (self.tensors[f"{block}self_attn.{name}_proj.weight"] for name in "qkvo")
        keys = [self.matrix("key", factor) for factor in transforms["key"].factors]
        values = [self.matrix("value", factor) for factor in transforms["value"].factors]
        group = self.heads // self.kv_heads
        mixing = torch.kron(self.matrix("o", transforms["o"].mixing), torch.eye(self.head_dim).double())
        grouped = torch.block_diag(*(values[head // group] for head in range(self.heads)))
        q, k = q @ gain @ self.residual, k @ gain @ self.residual
        v = torch.block_diag(*values).T @ v @ gain @ self.residual
        o = self.residual.T @ o @ grouped @ mixing
        q, k, v, o = (self.weight(s, f"{name}_proj", weight) for name, weight in zip("qkvo", (q, k, v, o), strict=True))
        x = self.read(self.norm(h))

        def by_head(weight):
            return (x @ weight.T).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        query, key, value = self.rotary(by_head(q)), self.rotary(by_head(k)), self.cached(by_head(v))
        length, outputs = x.shape[1], []
        future = torch.ones(length, length).triu(1).bool()
        for head in range(self.heads):
            kv = head // group
            turned_key = self.cached(key[:, kv] @ keys[kv])
            scores = query[:, head] @ keys[kv] @ turned_key.mT / self.head_dim**0.5
            outputs.append(scores.masked_fill(future, -torch.inf).softmax(-1) @ value[:, kv])
        return self.read(torch.cat(outputs, -1) @ mixing) @ o.T

    def ffn(self, s, h):
        block, transforms = f"model.layers.{s // 2}.", self.entries[s].transforms
        gain = torch.diag(self.tensors[f"{block}post_attention_layernorm.weight"])
        gate, up, down = (self.tensors[f"{block}mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        online = self.matrix("down", torch.kron(transforms["down"].left, transforms["down"].right))
        gate, up = gate @ gain @ self.residual, up @ gain @ self.residual
        down = self.residual.T @ down @ online
        gate, up, down = (
            self.weight(s, f"{name}_proj", weight)
            for name, weight in zip(("gate", "up", "down"), (gate, up, down), strict=True)
        )
        x = self.read(self.norm(h))
        gated = x @ gate.T
        return self.read((gated * gated.sigmoid() * (x @ up.T)) @ online) @ down.T

    def logits(self, tokens):
        h = self.tensors["model.embed_tokens.weight"][torch.from_numpy(tokens).long()] @ self.residual
        for s in range(4):
            h = h + (self.attention(s, h) if s % 2 == 0 else self.ffn(s, h))
        head = self.tensors["lm_head.weight"] @ torch.diag(self.tensors["model.norm.weight"]) @ self.residual
        return self.norm(h) @ head.T


def share_of_equal_tokens(found, expected):
    errors = (found.double() - expected).norm(dim=-1) / expected.norm(dim=-1)
    return (errors < 1e-4).double().mean().item()


def test_at_16_bits_the_reference_the_checkpoint_and_the_model_are_one(workspace):
    bank, model = quarot(workspace, FULL_PRECISION)
    expected = Reference(workspace, bank, None).logits(workspace.tokens)
    found = logits(model, workspace.tokens)
    assert relative_error(found.double(), expected) < 1e-5
    assert relative_error(logits(load_model(workspace.model), workspace.tokens).double(), expected) < 1e-5


def test_at_4_bits_the_checkpoint_is_the_reference(workspace):
    bank, model = quarot(workspace, W4A4K4V4)
    expected = Reference(workspace, bank, 4).logits(workspace.tokens)
    assert share_of_equal_tokens(logits(model, workspace.tokens), expected) > 0.8
    # Quantization is far from nothing.
    full = Reference(workspace, bank, None).logits(workspace.tokens)
    assert relative_error(expected, full) > 0.02 and share_of_equal_tokens(full, expected) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"activation_clip": 1.0},
        {"cache_clip": 1.0},
        {"cache": symmetric},
        {"without": ["key"]},
        {"without": ["value"]},
        {"without": ["o"]},
        {"without": ["down"]},
    ],
    ids=["activation_clip", "cache_clip", "cache", "key", "value", "o", "down"],
)
def test_every_ingredient_is_needed(workspace, change):
    bank, model = quarot(workspace, W4A4K4V4)
    changed = Reference(workspace, bank, 4, **change).logits(workspace.tokens)
    assert changed.isfinite().all()
    # A first token attends to itself alone: its keys do not matter.
    allowed = 0.2 if change.get("without") == ["key"] else 0.1
    assert share_of_equal_tokens(logits(model, workspace.tokens), changed) < allowed


def test_every_matrix_is_a_hadamard_matrix_and_random_signs_fold_away(workspace):
    if workspace.name != "hadamard":
        pytest.skip("6, 10 and 30 have no Hadamard matrix")
    bank, _ = quarot(workspace, W4A4K4V4)

    def signs_of(matrix):
        """s of diag(s) H with Sylvester's H."""
        product = matrix.detach().double() @ sylvester(len(matrix)).T
        signs = product.diagonal()
        torch.testing.assert_close(product, torch.diag(signs), rtol=0, atol=1e-6)
        torch.testing.assert_close(signs.abs(), torch.ones_like(signs), rtol=0, atol=1e-6)
        return signs.round().tolist()

    assert set(signs_of(read_residual(bank))) == {1.0, -1.0}
    values = []
    for s in (0, 2):
        transforms = read_entry(bank, s).transforms
        values += [signs_of(factor) for factor in transforms["value"].factors]
        assert all(signs_of(factor) == 8 * [1.0] for factor in transforms["key"].factors)  # online: no signs to carry
        assert signs_of(transforms["o"].mixing) == 4 * [1.0]
        down = read_entry(bank, s + 1).transforms["down"]
        assert signs_of(torch.kron(down.left, down.right)) == 64 * [1.0]
    assert all({1.0, -1.0} >= set(signs) for signs in values) and len({tuple(signs) for signs in values}) == 4


def test_no_step_is_taken_and_rows_alone_are_searched(workspace):
    bank, _ = quarot(workspace, W4A4K4V4)
    index = read_json(bank / "index.json")
    assert index["losses"] == [] and index["start_loss"] is None and index["recipe"]["steps"] == 0
    for s in range(4):
        entry = read_entry(bank, s)
        assert not entry.signed and not entry.asymmetric
        for name, clip in entry.clips.items():
            group = name.partition(".")[0]
            if group == "weight":
                assert len(clip.unique()) > 2, name
            else:
                given = torch.full_like(clip, {"activation": 0.9, "cache": 0.95}[group])
                torch.testing.assert_close(clip, given, rtol=1e-6, atol=0)
