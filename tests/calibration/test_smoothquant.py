"""SmoothQuant (arXiv 2211.10438) as a recipe, against the paper's formula on what transformers' own model computes."""

import numpy as np
import pytest
import torch
from models_for_tests import Workspace, double_model, logits, make_tokens, relative_error, transformers_model

from altq.calibration.bank import read_entry
from altq.calibration.states import MOMENT_WINDOWS
from altq.calibration.sublayer import QuantizedSublayer
from altq.experiment.kinds import HALVES
from altq.experiment.setting import FULL_PRECISION, Setting
from altq.models.sublayer import Sublayer
from altq.quantizers.clipping import LARGEST
from altq.quantizers.quantizer import Quantizers
from altq.transforms.heads import HeadAffine
from altq.transforms.identity import Identity
from altq.transforms.scaling import Scaling

SETTING = Setting(8, 8, 16, 16)
SMOOTHQUANT = {
    "scaling": "smooth", "other_sites": "scaling", "clip_search": False, "initial_clip": 1.0, "signed_scale": False,
    "steps": 0,
}  # fmt: skip

# (heads, key/value heads): 6 and 3, 4 and 4, 13 and 1, 4 and 2 with norms of keys, 5 and 5 with biases.
NAMES = ["llama_gqa", "llama_tied", "llama_prime", "qwen3", "llama_biases", "gemma3_text"]


@pytest.fixture(scope="module", params=NAMES)
def workspace(request, tmp_path_factory):
    tokens = make_tokens(windows=MOMENT_WINDOWS + 3, length=6)
    return Workspace(request.param, tmp_path_factory.mktemp("smooth"), tokens=tokens, full_products=True)


def smoothquant(workspace, alpha, **options):
    options = SMOOTHQUANT | {"smooth_alpha": alpha} | options
    return workspace.bank(SETTING, "scaling", folder=f"bank-{alpha}-{len(options)}", **options)


def hooked_peaks(workspace, num_windows=MOMENT_WINDOWS):
    """max|x| of each input channel of every linear layer of transformers' own model, [d] in float64, by its name."""
    model, peaks = transformers_model(workspace.model, torch.float64), {}

    def see(name):
        def hook(_, inputs):
            peaks[name] = np.abs(inputs[0].numpy()).max((0, 1))

        return hook

    for name, linear in model.named_modules():
        if name.endswith("_proj"):
            linear.register_forward_pre_hook(see(name))
    logits(model, workspace.tokens[:num_windows])
    weights = {name: linear.weight.detach().numpy() for name, linear in model.named_modules() if name in peaks}
    return peaks, weights, model.config


def smooth_factors(peak, weights, alpha):
    """The paper's s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), over all layers that read X: X diag(s)^-1, diag(s) W."""
    columns = np.stack([np.abs(weight).max(0) for weight in weights]).max(0)
    return np.array([x**alpha / w ** (1 - alpha) for x, w in zip(peak, columns, strict=True)])


SITES = {"qkv": ("self_attn", "qkv"), "gate_up": ("mlp", ("gate", "up")), "down": ("mlp", ("down",))}


@pytest.mark.parametrize("alpha", [0.5, 0.85])
def test_the_scalings_are_the_paper_s(workspace, alpha):
    bank = smoothquant(workspace, alpha)
    peaks, weights, _config = hooked_peaks(workspace)
    for s in range(4):
        entry = read_entry(bank, s)
        for site, transform in entry.transforms.items():
            if site not in SITES:
                continue
            module, projections = SITES[site]
            names = [f"model.layers.{s // 2}.{module}.{projection}_proj" for projection in projections]
            expected = 1 / smooth_factors(peaks[names[0]], [weights[name] for name in names], alpha)
            assert type(transform) is Scaling
            found = transform.scale.detach().double().numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-4)
            assert np.abs(expected / expected.mean() - 1).max() > 0.1  # far from one scale for all
    assert {site for s in range(2) for site in read_entry(bank, s).transforms} == {*SITES, "o", "key", "value"}


@pytest.mark.parametrize("alpha", [0.5, 0.85])
def test_the_scaling_of_o_is_the_geometric_mean_of_the_heads_that_share_a_value(workspace, alpha):
    bank = smoothquant(workspace, alpha)
    peaks, weights, config = hooked_peaks(workspace)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    group = heads // kv_heads
    for block in range(2):
        transforms = read_entry(bank, 2 * block).transforms
        name = f"model.layers.{block}.self_attn.o_proj"
        scale = 1 / smooth_factors(peaks[name], [weights[name]], alpha)
        head_dim = len(scale) // heads
        assert type(transforms["o"]) is Identity and transforms["o"].size == len(scale)
        value, key = transforms["value"], transforms["key"]
        assert type(value) is type(key) is HeadAffine
        assert torch.equal(key.factors, torch.eye(head_dim).repeat(kv_heads, 1, 1))
        expected = np.zeros((kv_heads, head_dim, head_dim))
        for kv_head in range(kv_heads):
            for i in range(head_dim):
                shared = [scale[(kv_head * group + member) * head_dim + i] for member in range(group)]
                expected[kv_head, i, i] = np.prod(shared) ** (1 / group)
        np.testing.assert_allclose(value.factors.detach().double().numpy(), expected, rtol=1e-4)
        # With a value head for each query head nothing is lost: o's scale is the paper's own.
        if group == 1:
            np.testing.assert_allclose(
                value.apply_grouped(torch.ones(len(scale))).detach().double().numpy(), scale, rtol=1e-4
            )


def test_peaks_are_of_the_first_windows_alone(workspace):
    # The tests above would see it if they were not: later windows hold larger inputs.
    (first, *_), (all_windows, *_) = hooked_peaks(workspace), hooked_peaks(workspace, len(workspace.tokens))
    for name, peak in first.items():
        larger = all_windows[name] > 1.01 * peak
        assert larger.any() or name.endswith("o_proj"), name


@pytest.mark.usefixtures("double_transforms")
def test_at_16_bits_the_smoothed_model_is_the_model(workspace):
    bank = smoothquant(workspace, 0.5)
    skeleton, model = double_model(workspace.model)
    expected = logits(model, workspace.tokens)
    blocks, kept = model.get_submodule(skeleton.family.blocks), []
    for s in range(4):
        entry = read_entry(bank, s)
        sublayer = Sublayer(blocks[s // 2], skeleton.family, HALVES[s % 2])
        transforms = {site: transform.double() for site, transform in entry.transforms.items()}
        quantized = QuantizedSublayer(sublayer, transforms, Quantizers.at(FULL_PRECISION, signed=entry.signed))
        kept.append(quantized)
        plain = {name: weight.clone() for name, weight in quantized.weights.items()}
        with torch.no_grad():
            quantized.prepare()
        for name, projection in quantized.projections.items():
            assert relative_error(projection.weight, plain[name]) > 0.1, name  # every weight is another
    assert relative_error(logits(model, workspace.tokens), expected) < 1e-10


def test_nothing_is_clipped_and_scales_are_not_signed(workspace):
    bank = smoothquant(workspace, 0.5)
    for s in range(4):
        entry = read_entry(bank, s)
        assert entry.signed is False and len(entry.clips) == (8, 5)[s % 2]
        for clip in entry.clips.values():
            torch.testing.assert_close(clip, torch.full_like(clip, LARGEST), rtol=0, atol=1e-6)


def test_the_scalings_do_not_depend_on_seed_or_bits(workspace):
    def tensors(setting, seed):
        bank = workspace.bank(setting, "scaling", folder=f"again-{seed}", seed=seed, **SMOOTHQUANT)
        for s in range(4):
            for site, transform in read_entry(bank, s).transforms.items():
                yield from ((s, site, name, tensor) for name, tensor in transform.state_dict().items())

    for (*where, first), (*_, second) in zip(tensors(SETTING, 0), tensors(Setting(4, 4, 4, 4), 1), strict=True):
        assert torch.equal(first, second), where
