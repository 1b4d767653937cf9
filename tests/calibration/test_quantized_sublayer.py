"""The invariant: at 16 bits a transformed model is the model. In float64, over kinds, sites, starts and families."""

import pytest
import torch
from models_for_tests import KINDS, MODELS, double_model, logits, recipe, relative_error, transformers_model

from altq.calibration.start import start_sublayer
from altq.calibration.states import States
from altq.calibration.sublayer import QuantizedSublayer, module_key
from altq.experiment.kinds import HALVES
from altq.experiment.setting import FULL_PRECISION, Setting
from altq.models.skeleton import Skeleton
from altq.models.sublayer import Sublayer
from altq.quantizers.quantizer import Quantizers
from altq.transforms.scaling import Scaling


def install(workspace, skeleton, model, kinds, *, setting=FULL_PRECISION, **options):
    """Transform every sublayer of a model in place, as long as the quantized sublayers are kept that it returns."""
    states, generator = States(workspace.states), torch.Generator().manual_seed(3)
    installed = []
    for s, kind in enumerate(kinds):
        block = model.get_submodule(skeleton.family.blocks)[s // 2]
        sublayer = Sublayer(block, skeleton.family, HALVES[s % 2])
        observed = {name: tensor.to(skeleton.dtype) for name, tensor in states.observed(s).items()}
        transforms = start_sublayer(sublayer, observed, kind=kind, recipe=recipe(**options), generator=generator)
        transforms = {site: transform.to(skeleton.dtype) for site, transform in transforms.items()}
        quantized = QuantizedSublayer(sublayer, transforms, Quantizers.at(setting, signed=True))
        with torch.no_grad():
            for module in quantized.modules():
                if isinstance(module, Scaling):  # they may start at one
                    module.log_scale.add_(0.3 * torch.randn(module.size, generator=generator))
            quantized.prepare()
        installed.append(quantized)
    return installed


def far_from_identity(transform):
    eye = torch.eye(transform.size, dtype=torch.float64)
    return (transform.matrix() - eye).norm() > 0.01


def assert_invariant(workspace, kinds, **options):
    skeleton, model = double_model(workspace.model)
    expected = logits(model, workspace.tokens)
    assert expected.dtype == torch.float64
    # The double norms are transformers' own up to float32.
    assert relative_error(expected, logits(transformers_model(workspace.model), workspace.tokens)) < 1e-5
    installed = install(workspace, skeleton, model, kinds, **options)
    for quantized, kind in zip(installed, kinds, strict=True):
        with torch.no_grad():
            for site, transform in quantized.transforms.items():
                unchanged = kind == "identity" or (options.get("other_sites") == "scaling" and site in ("key", "o"))
                assert unchanged or far_from_identity(transform), site
    assert relative_error(logits(model, workspace.tokens), expected) < 1e-10


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_leaves_every_family_unchanged(workspaces, double_transforms, name, kind):
    workspace = workspaces(name)
    assert_invariant(workspace, 4 * [kind], start="balance")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "options",
    [
        {"start": "random", "scaling": "ones"},
        {"start": "hadamard", "scaling": "none"},
        {"start": "cayley", "scaling": "smooth"},
        {"start": "random", "structure": "full"},
        {"start": "balance", "structure": "full"},
        {"start": "balance", "scaling": "smooth", "other_sites": "scaling"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_mixtures_leave_every_family_unchanged(workspaces, double_transforms, name, options):
    assert_invariant(workspaces(name), ["rotation", "affine", "balance", "hadamard"], **options)
    assert_invariant(workspaces(name), ["scaling", "rotation", "affine", "identity"], **options)


def test_a_transform_that_is_not_folded_changes_the_logits(workspaces, double_transforms):
    # What the tests above would see if the weights missed one site.
    workspace = workspaces("llama_gqa")
    for site in ("qkv", "o", "key", "value", "gate_up", "down"):
        skeleton, model = double_model(workspace.model)
        expected = logits(model, workspace.tokens)
        installed = install(workspace, skeleton, model, 4 * ["affine"])
        quantized = next(q for q in installed if site in q.transforms)
        with torch.no_grad():
            for parameter in quantized.transforms[site].parameters():
                parameter.mul_(1 + 0.1 * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(0)))
        error = relative_error(logits(model, workspace.tokens), expected)
        # Keys and queries are transformed online, both of them: nothing is folded that could be missed.
        if site == "key":
            assert error < 1e-10
        elif site != "value":  # value's matrix lies in the weights of v and o alone
            assert error > 1e-6, site


def test_the_sites_have_the_kinds_that_the_paper_gives_them(workspaces):
    workspace = workspaces("llama_gqa")
    for kind in KINDS:
        skeleton = Skeleton(workspace.model)
        attention, ffn, *_ = install(workspace, skeleton, skeleton.fill(), 4 * [kind])
        expected = {"identity": "Identity", "scaling": "Scaling"}.get(kind, "Scaled")
        names = {site: type(t).__name__ for q in (attention, ffn) for site, t in q.transforms.items()}
        others = {"key": "HeadAffine", "value": "HeadAffine", "o": "HeadMixing", "down": "Scaled"}
        assert names == {"qkv": expected, "gate_up": expected} | others
        down = type(ffn.transforms["down"].online).__name__
        assert down == ("Balance" if kind == "balance" else "Affine")


def test_clipping_factors_are_given_and_taken(workspaces):
    workspace = workspaces("llama_gqa")
    skeleton = Skeleton(workspace.model)
    first, _, again, _ = install(workspace, skeleton, skeleton.fill(), 4 * ["affine"], setting=Setting(4, 4, 4, 4))
    factors = first.clipping_factors()
    names = {f"weight.{module_key(p)}": (n, 1) for p, n in zip(first.weights, (36, 18, 18, 36), strict=True)}
    shapes = names | {"activation.qkv": (1,), "activation.o": (1,), "cache.key": (3, 1, 2), "cache.value": (3, 1, 2)}
    assert {name: tuple(factor.shape) for name, factor in factors.items()} == shapes
    generator = torch.Generator().manual_seed(0)
    changed = {name: 0.3 + 0.6 * torch.rand(factor.shape, generator=generator) for name, factor in factors.items()}
    again.load_clipping_factors(changed)
    for name, factor in again.clipping_factors().items():
        torch.testing.assert_close(factor, changed[name])


def test_the_transformed_moment_is_that_of_the_transformed_input(workspaces, double_transforms):
    workspace = workspaces("qwen2")
    skeleton, model = double_model(workspace.model)
    for quantized in install(workspace, skeleton, model, 4 * ["affine"]):
        for site, transform in quantized.transforms.items():
            if site not in quantized.sites:
                continue
            rows = torch.randn(50, transform.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            with torch.no_grad():
                seen = quantized.transforms["value"].apply_grouped(rows) if site == "o" else rows
                seen = transform.apply_to(seen)
                found = quantized.transformed_moment(site, rows.T @ rows)
            torch.testing.assert_close(found, seen.T @ seen, rtol=1e-9, atol=1e-9)


def test_gradients_reach_every_transform_and_clip(workspaces):
    workspace = workspaces("qwen3")
    skeleton, states = Skeleton(workspace.model), States(workspace.states)
    arguments = skeleton.block_arguments(states.length)
    installed = install(workspace, skeleton, skeleton.fill(), 4 * ["affine"], setting=Setting(4, 4, 4, 4))
    for s, quantized in enumerate(installed):
        quantized.prepare()
        added = quantized(quantized.sublayer.norm(states.state(s)), arguments[s // 2])
        (added - states.state(s + 1) + states.state(s)).square().mean().backward()
        for name, parameter in quantized.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.norm() > 0, name


def test_quantizing_any_of_the_four_changes_the_output(workspaces):
    workspace = workspaces("llama_gqa")
    outputs = {}
    for text in ("W16A16K16V16", "W4A16K16V16", "W16A4K16V16", "W16A16K4V16", "W16A16K16V4"):
        skeleton = Skeleton(workspace.model)
        installed = install(workspace, skeleton, skeleton.fill(), 4 * ["affine"], setting=Setting.parse(text))
        outputs[text] = logits(skeleton.model, workspace.tokens)
        assert installed[0].sublayer.block is skeleton.model.get_submodule(skeleton.family.blocks)[0]
    full = outputs.pop("W16A16K16V16")
    for text, found in outputs.items():
        assert 1e-3 < relative_error(found, full) < 1, text
