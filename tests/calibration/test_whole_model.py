"""The whole model as end-to-end calibration runs it: the model itself at 16 bits, and its rotations' gradients."""

from types import SimpleNamespace

import pytest
import torch
from models_for_tests import MODELS, ROTATABLE, logits, make_tokens, relative_error, save_tiny_model, transformers_model
from transformers.models.granite.modeling_granite import GraniteRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.smollm3.modeling_smollm3 import SmolLM3RMSNorm

from altq.calibration import whole_model
from altq.calibration.fitting import Fitting
from altq.calibration.losses import cross_entropy
from altq.calibration.subject import Subject
from altq.calibration.whole_model import WholeModel
from altq.checkpoint.quantized_model import read_input
from altq.experiment.baselines import OSTQUANT, QUAROT, SPINQUANT
from altq.experiment.end_to_end_recipe import EndToEndRecipe
from altq.experiment.setting import FULL_PRECISION, Setting
from altq.models.skeleton import Skeleton
from altq.quantizers import quantizer
from altq.quantizers.clipping import LARGEST
from altq.quantizers.integer import dequantized
from altq.quantizers.uniform import code_range
from altq.transforms.hadamard import Hadamard
from altq.transforms.heads import HeadAffine, HeadMixing, HeadRotation
from altq.transforms.identity import Identity
from altq.transforms.rotation import orthogonality_error, random_orthogonal
from altq.transforms.scaling import Scaled, Scaling

NORMS = (
    GraniteRMSNorm, LlamaRMSNorm, MistralRMSNorm, Phi3RMSNorm, Qwen2RMSNorm, Qwen3RMSNorm, SmolLM3RMSNorm,
)  # fmt: skip
W4A4K4V4 = Setting(4, 4, 4, 4)
TOKENS = make_tokens(windows=3, length=10)
IDS = torch.from_numpy(TOKENS).long()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: save_tiny_model(name, tmp_path_factory.mktemp(name)) for name in MODELS}


@pytest.fixture
def double_norms(monkeypatch):
    """transformers' norms without their detour through float32, which would hide an error of 1e-10."""

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon) * self.weight

    for norm in NORMS:
        monkeypatch.setattr(norm, "forward", forward)


def whole_model_of(folder, setting, recipe, dtype=torch.float64, seed=0, **options):
    subject = Subject(Skeleton(folder, dtype), SimpleNamespace(length=IDS.shape[1]))
    fitting = Fitting.end_to_end(setting=setting, seed=seed, recipe=recipe)
    return WholeModel(subject, fitting, **options)


@torch.no_grad()
def move(whole, seed=1):
    """As training might: every rotation another one, every scaling away from one."""
    generator = torch.Generator().manual_seed(seed)
    whole.rotation.copy_(random_orthogonal(len(whole.rotation), generator))
    for module in whole.modules():
        if isinstance(module, HeadRotation):
            for rotation in module.rotation:
                rotation.copy_(random_orthogonal(module.head_dim, generator))
        if isinstance(module, Scaling | HeadRotation):
            module.log_scale.add_(0.5 * torch.randn(module.log_scale.shape, generator=generator))
    return whole


@torch.no_grad()
def logits_of(whole):
    return whole.logits(whole(IDS).flatten(0, 1)).view(*IDS.shape, -1)


@pytest.mark.parametrize("name", ROTATABLE)
@pytest.mark.parametrize("recipe", [QUAROT, SPINQUANT, OSTQUANT], ids=["quarot", "spinquant", "ostquant"])
def test_at_16_bits_it_is_the_model_wherever_its_rotations_are(folders, double_norms, name, recipe):
    expected = logits(transformers_model(folders[name], torch.float64), TOKENS)
    whole = whole_model_of(folders[name], FULL_PRECISION, recipe)
    assert relative_error(logits_of(whole), expected) < 1e-10
    start = whole.rotation.detach().clone()
    assert relative_error(logits_of(move(whole)), expected) < 1e-10
    assert (whole.rotation - start).abs().max() > 0.1


@pytest.mark.parametrize("text", ["W4A16K16V16", "W2A16K16V16"])
def test_weights_are_not_rounded_while_it_is_fitted(folders, double_norms, text):
    expected = logits(transformers_model(folders["llama_gqa"], torch.float64), TOKENS)
    assert (
        relative_error(logits_of(whole_model_of(folders["llama_gqa"], Setting.parse(text), OSTQUANT)), expected) < 1e-10
    )


@pytest.mark.parametrize("text", ["W16A4K16V16", "W16A16K4V16", "W16A16K16V4"])
@pytest.mark.parametrize("recipe", [QUAROT, OSTQUANT], ids=["quarot", "ostquant"])
def test_activations_keys_and_values_are(folders, text, recipe):
    expected = logits(transformers_model(folders["llama_gqa"], torch.float64), TOKENS)
    found = logits_of(whole_model_of(folders["llama_gqa"], Setting.parse(text), recipe))
    assert 1e-3 < relative_error(found, expected) < 1


def test_a_rotation_that_is_not_orthogonal_is_another_model(folders):
    # What the invariance above would see if the stream were rotated back wrongly in one place.
    whole = whole_model_of(folders["llama_gqa"], FULL_PRECISION, SPINQUANT)
    expected = logits_of(whole)
    with torch.no_grad():
        whole.rotation[0] *= 1.01
    assert relative_error(logits_of(whole), expected) > 1e-4


TRAINED = {
    "residual": {"rotation"},
    "value": {f"sublayers.{s}.transforms.value.rotation" for s in (0, 2)},
    "scaling": {
        *(f"sublayers.{s}.transforms.{site}.log_scale" for s in (0, 2) for site in ("qkv", "value")),
        *(f"sublayers.{s}.transforms.{site}.log_scale" for s in (1, 3) for site in ("gate_up", "down.scaling")),
    },
}


@pytest.mark.parametrize("trained", [[], *([name] for name in TRAINED), ["residual", "value"], list(TRAINED)], ids=str)
def test_only_what_the_recipe_trains_requires_gradients(folders, trained):
    whole = whole_model_of(folders["llama_gqa"], W4A4K4V4, EndToEndRecipe(trained=trained, steps=0), torch.float32)
    found = {name for name, parameter in whole.named_parameters() if parameter.requires_grad}
    assert found == set().union(*(TRAINED[name] for name in trained))


@pytest.mark.parametrize("trained", [["residual", "value"], list(TRAINED)], ids=len)
@pytest.mark.parametrize("shared", [True, False])
def test_the_transforms_of_every_site(folders, trained, shared):
    recipe = EndToEndRecipe(trained=trained, shared_value=shared)
    whole = whole_model_of(folders["llama_tied"], W4A4K4V4, recipe)
    scaled = "scaling" in trained
    for s, quantized in enumerate(whole.sublayers):
        found = {site: type(transform) for site, transform in quantized.transforms.items()}
        if s % 2:
            assert found == {"gate_up": Scaling, "down": Scaled} if scaled else {"gate_up": Identity, "down": Hadamard}
            continue
        selected = Scaling if scaled else Identity
        assert found == {"qkv": selected, "key": HeadAffine, "value": HeadRotation, "o": HeadMixing}
        value, key, mixing = (quantized.transforms[site] for site in ("value", "key", "o"))
        assert value.rotation.shape == (1 if shared else 4, 8, 8) and value.log_scale.shape == (4, 8)
        # Hadamard matrices: entries of one magnitude; with random signs where the map folds away whole.
        for matrix in (value.rotation.detach(), key.factors.detach(), mixing.mixing.detach(), whole.rotation.detach()):
            assert orthogonality_error(matrix) < 1e-12
            torch.testing.assert_close(matrix.abs(), torch.full_like(matrix, matrix.shape[-1] ** -0.5))
        if not shared:
            assert not torch.equal(value.rotation[0], value.rotation[1])
        assert torch.equal(key.factors[0], key.factors[3])
    first, second = (whole.sublayers[s].transforms["value"].rotation for s in (0, 2))
    assert not torch.equal(first, second)


def test_quantizers_are_those_of_the_recipe(folders):
    options = {"activation_clip": 0.8, "cache_clip": 0.7, "asymmetric": True}
    whole = whole_model_of(folders["llama_gqa"], W4A4K4V4, EndToEndRecipe(**options))
    expected = {"activation": 0.8, "cache": 0.7, "weight": LARGEST}
    for quantized in whole.sublayers:
        assert quantized.quantizers.options == {"signed": False, "asymmetric": True}
        for name, factor in quantized.clipping_factors().items():
            given = torch.full_like(factor, expected[name.partition(".")[0]])
            torch.testing.assert_close(factor, given, rtol=1e-6, atol=0, msg=name)
    assert not whole_model_of(folders["llama_gqa"], W4A4K4V4, EndToEndRecipe()).quantizers.activations.asymmetric


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("asymmetric", [True, False])
def test_what_a_site_reads_is_what_a_checkpoint_s_codes_stand_for(folders, asymmetric, bits):
    recipe = EndToEndRecipe(asymmetric=asymmetric, activation_clip=0.9)
    whole = whole_model_of(folders["llama_gqa"], Setting(4, bits, 4, 4), recipe, torch.float32)
    generator = torch.Generator().manual_seed(0)
    for quantized in whole.sublayers:
        for site in quantized.sites:
            transform, clip = quantized.transforms[site], quantized.activation_clip[site]()
            x = torch.randn(3, 5, transform.size, generator=generator) + 0.5
            with torch.no_grad():
                read = read_input(transform, clip, whole.quantizers.activations, x)
                assert torch.equal(quantized.read(site, x), dequantized(read))
            reach = (-(2**bits) + 1, 2**bits - 1) if asymmetric else code_range(bits)
            assert read.codes.min() >= reach[0] and read.codes.max() <= reach[1]


def loss_of(whole):
    read = whole(IDS)
    return cross_entropy(whole.logits(read[:, :-1].flatten(0, 1)), IDS[:, 1:].flatten())


def tensors_of(quantized):
    """The weights and biases that a sublayer folds from."""
    weights = {f"{name}.weight": weight for name, weight in quantized.weights.items()}
    return weights | {f"{name}.bias": bias for name, bias in quantized.biases.items() if bias is not None}


def same_tensors(found, expected):
    """Whether they are the very tensors, outside of any graph."""
    return found.keys() == expected.keys() and all(
        tensor is expected[name] and tensor.grad_fn is None for name, tensor in found.items()
    )


def blocks_that_are_folded(whole):
    """The blocks of which some projection holds a weight or a bias."""
    return {
        s // 2
        for s, quantized in enumerate(whole.sublayers)
        for projection in quantized.projections.values()
        if projection.weight is not None or projection.bias is not None
    }


def gradients_of(whole):
    whole.zero_grad()
    loss_of(whole).backward()
    return {name: p.grad.clone() for name, p in whole.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", ["llama_gqa", "qwen2", "mistral"])
@pytest.mark.parametrize("recipe", [SPINQUANT, OSTQUANT], ids=["spinquant", "ostquant"])
def test_gradients_through_checkpointing_are_those_without(folders, monkeypatch, name, recipe):
    whole = move(whole_model_of(folders[name], W4A4K4V4, recipe))
    found = gradients_of(whole)
    monkeypatch.setattr(whole_model, "checkpoint", lambda run, *arguments, use_reentrant: run(*arguments))
    expected = gradients_of(whole)
    for parameter, gradient in expected.items():
        assert gradient.isfinite().all() and gradient.abs().max() > 0, parameter
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-9, atol=1e-12, msg=parameter)


@pytest.mark.parametrize("recipe", [SPINQUANT, OSTQUANT], ids=["spinquant", "ostquant"])
def test_gradients_are_finite_differences_where_quantizers_are_smooth(folders, double_norms, monkeypatch, recipe):
    # Rounding has no derivative to compare with. A bend in its place has: what is left is everything else, the
    # folding, the rotations back, the heads and the recomputation.
    monkeypatch.setattr(quantizer, "fake_quantize_asymmetric", lambda x, bits, clip: torch.tanh(x) * clip[..., 1:])
    whole = move(whole_model_of(folders["llama_gqa"], W4A4K4V4, recipe))
    gradients, generator = gradients_of(whole), torch.Generator().manual_seed(5)
    parameters = dict(whole.named_parameters())
    for name, gradient in gradients.items():
        direction = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
        losses = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameters[name].add_(step * direction)
                losses.append(loss_of(whole).item())
                parameters[name].sub_(step * direction)
        expected = (losses[0] - losses[1]) / 2e-5
        assert abs(expected) > 1e-4, name
        assert (gradient * direction).sum().item() == pytest.approx(expected, rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize("recipe", [SPINQUANT, OSTQUANT], ids=["spinquant", "ostquant"])
def test_weights_in_bfloat16_have_masters_in_float32(folders, recipe):
    whole = whole_model_of(folders["llama_gqa"], W4A4K4V4, recipe, torch.bfloat16)
    exact = whole_model_of(folders["llama_gqa"], W4A4K4V4, recipe, torch.float32)
    for name, parameter in whole.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype == torch.float32, name
            assert torch.equal(parameter, dict(exact.named_parameters())[name])
    gradients = gradients_of(whole)
    assert all(gradient.isfinite().all() and gradient.dtype == torch.float32 for gradient in gradients.values())
    assert loss_of(whole).item() == pytest.approx(loss_of(exact).item(), rel=0.05)
    full = logits(transformers_model(folders["llama_gqa"]), TOKENS)
    unquantized = whole_model_of(folders["llama_gqa"], FULL_PRECISION, recipe, torch.bfloat16)
    assert relative_error(logits_of(unquantized), full) < 0.03


@pytest.mark.parametrize("name", ["llama_gqa", "qwen2"])  # without biases and with
def test_folded_weights_are_not_kept(folders, name):
    whole = whole_model_of(folders[name], W4A4K4V4, SPINQUANT)
    originals = [tensors_of(quantized) for quantized in whole.sublayers]
    assert any(key.endswith(".bias") for key in originals[0]) == (name == "qwen2")
    loss = loss_of(whole)
    assert blocks_that_are_folded(whole) == set()
    assert all(map(same_tensors, map(tensors_of, whole.sublayers), originals))
    loss.backward()
    # The block that the backward pass came to last is let go of by the next forward pass.
    kept = blocks_that_are_folded(whole)
    assert kept <= {0}
    for s, (quantized, original) in enumerate(zip(whole.sublayers, originals, strict=True)):
        assert s // 2 in kept or same_tensors(tensors_of(quantized), original)
    with torch.no_grad():
        loss_of(whole)
    assert blocks_that_are_folded(whole) == set()
    assert all(map(same_tensors, map(tensors_of, whole.sublayers), originals))


def test_a_family_whose_stream_cannot_be_rotated_is_refused_by_name(folders):
    with pytest.raises(ValueError, match="cannot fold: post_attention_layernorm"):
        whole_model_of(folders["gemma3_text"], W4A4K4V4, SPINQUANT)


def test_the_seed_decides_the_signs(folders):
    rotations = [whole_model_of(folders["llama_gqa"], W4A4K4V4, QUAROT, seed=seed).rotation for seed in (0, 0, 1)]
    assert torch.equal(rotations[0], rotations[1]) and not torch.equal(rotations[0], rotations[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama_gqa", "qwen3", "llama_biases"])
def test_streamed_block_by_block_its_gradients_are_those_of_resident_blocks_bit_for_bit(folders, name, dtype):
    resident, streamed = (
        gradients_of(whole_model_of(folders[name], W4A4K4V4, OSTQUANT, dtype, streamed=streamed))
        for streamed in (False, True)
    )
    assert resident.keys() == streamed.keys() and len(resident) > 2
    for parameter, gradient in resident.items():
        assert gradient.abs().max() > 0 and torch.equal(streamed[parameter], gradient), parameter


def test_streamed_weights_are_copies_that_are_used_by_one_block_at_a_time(folders):
    whole = whole_model_of(folders["llama_gqa"], W4A4K4V4, SPINQUANT, torch.bfloat16, streamed=True)
    kept = [[t for tensors in pair for t in tensors.values() if t is not None] for pair in whole._weights]
    used, original = [], whole.rotate

    def rotate(s):
        used.append([i for i, q in enumerate(whole.sublayers) if next(iter(q.weights.values())).dtype == torch.float32])
        original(s)

    whole.rotate = rotate
    gradients_of(whole)
    assert used == [[], [0], [], [2], [], [2], [], [0]]  # forward, then backward; the other half of its block beside it
    whole.release()
    for quantized, tensors in zip(whole.sublayers, kept, strict=True):
        assert all(a is b for a, b in zip(quantized.weights.values(), tensors, strict=False))
