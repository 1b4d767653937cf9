import logging
import math

import pytest
import torch

from altq.calibration import fit as module
from altq.calibration.fit import Problem, fit_sublayer, search_clips
from altq.calibration.recipe import Recipe
from altq.calibration.start import start_sublayer
from altq.calibration.states import States
from altq.calibration.sublayer import QuantizedSublayer, module_key
from altq.models.skeleton import Skeleton
from altq.models.sublayer import HALVES, Sublayer
from altq.quantizers.uniform import quantize, symmetric_scale
from altq.setting import FULL_PRECISION, Setting
from altq.transforms.rotation import Rotation
from models_for_tests import KINDS, Workspace, recipe

SETTING = Setting(3, 3, 3, 3)
ALL = slice(None)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace("llama_gqa", tmp_path_factory.mktemp("fit"))


def build(workspace, s, kind="affine", setting=SETTING, *, signed=True, **options):
    """(quantized sublayer, problem)"""
    skeleton, states = Skeleton(workspace.model), States(workspace.states)
    sublayer = Sublayer(skeleton.block(s // 2), skeleton.family, HALVES[s % 2])
    generator = torch.Generator().manual_seed(s)
    transforms = start_sublayer(sublayer, states.moments(s), kind, Recipe(**options), generator)
    quantized = QuantizedSublayer(sublayer, transforms, setting, signed=signed)
    arguments = skeleton.block_arguments(states.length)[s // 2]
    return quantized, Problem(states.state(s), states.state(s + 1), arguments, states.loss, states.moments(s))


def loss_of(quantized, problem, windows=ALL):
    with torch.no_grad():
        quantized.prepare()
        return problem.evaluate(quantized, windows).item()


def test_the_loss_is_zero_at_full_precision_for_every_kind(workspace):
    for s in range(4):
        for kind in KINDS:
            # float32, and with operands of 8 bits where the processor has reduced products.
            assert loss_of(*build(workspace, s, kind, FULL_PRECISION)) < 1e-4
            assert loss_of(*build(workspace, s, kind)) > 1e-3


def test_the_loss_is_the_weighted_mean_squared_error_of_what_is_added(workspace):
    quantized, problem = build(workspace, 1)
    with torch.no_grad():
        quantized.prepare()
        found = problem.evaluate(quantized, slice(1, 3)).item()
        inputs, outputs = problem.inputs[1:3], problem.outputs[1:3]
        error = inputs + quantized(quantized.sublayer.norm(inputs), problem.arguments) - outputs
        weights = 1 / outputs.square().mean(-1)
        expected = (error.square().mean(-1) * weights).sum() / weights.sum()
    assert found == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("s", [0, 1])
@pytest.mark.parametrize("kind", ["rotation", "affine", "balance"])
def test_steps_never_raise_the_loss_and_what_is_reported_is_so(workspace, s, kind):
    quantized, problem = build(workspace, s, kind)
    given = recipe(steps=6, clip_search=True, learning_rate=5e-3)
    fit = fit_sublayer(quantized, problem, given, "here")
    windows = slice(0, None, 2)  # 2 of 4
    assert fit.loss <= fit.start_loss and fit.num_restarts == 0
    assert fit.steps_kept == (fit.loss < fit.start_loss)
    assert loss_of(quantized, problem, windows) == pytest.approx(fit.loss, rel=1e-6)


def test_steps_lower_the_loss_from_a_random_start(workspace):
    for s in (0, 1):
        quantized, problem = build(workspace, s, start="random")
        fit = fit_sublayer(quantized, problem, recipe(steps=20, learning_rate=5e-3, search_windows=4), "here")
        assert fit.steps_kept and fit.loss < 0.97 * fit.start_loss


def test_steps_that_raise_the_loss_are_taken_back(workspace, monkeypatch):
    quantized, problem = build(workspace, 1)
    before = {name: tensor.clone() for name, tensor in quantized.state_dict().items()}

    def spoil(quantized, *_):
        with torch.no_grad():
            quantized.weight_clip["down_proj"].set(0.02)

    monkeypatch.setattr(module, "_take_steps", spoil)
    fit = fit_sublayer(quantized, problem, recipe(steps=1), "here")
    assert not fit.steps_kept and fit.loss == fit.start_loss
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantized.state_dict().items())


def test_rotations_stay_orthogonal(workspace):
    quantized, problem = build(workspace, 0, "rotation")
    fit_sublayer(quantized, problem, recipe(steps=8, learning_rate=2e-2), "here")
    rotations = [m for m in quantized.modules() if isinstance(m, Rotation)]
    assert rotations
    for rotation in rotations:
        for factor in (rotation.left.detach().double(), rotation.right.detach().double()):
            assert (factor.T @ factor - torch.eye(len(factor))).abs().max() < 1e-6


def test_halves_that_are_not_fitted_take_no_step(workspace, monkeypatch):
    monkeypatch.setattr(module, "_take_steps", lambda *_: pytest.fail("a step was taken"))
    for given in (recipe(steps=5, fitted=["ffn"]), recipe(steps=0)):
        fit = fit_sublayer(*build(workspace, 0), given, "here")
        assert fit.loss == fit.start_loss and not fit.steps_kept


@pytest.mark.parametrize("s", [0, 1])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_clip_search_lowers_the_loss(workspace, s, bits):
    quantized, problem = build(workspace, s, setting=Setting(bits, bits, bits, bits))
    before = loss_of(quantized, problem)
    search_clips(quantized, problem, ALL)
    assert loss_of(quantized, problem) < before


def test_the_clip_search_leaves_full_precision_alone(workspace):
    quantized, problem = build(workspace, 0, setting=Setting(16, 16, 4, 16))
    before = quantized.clipping_factors()
    search_clips(quantized, problem, ALL)
    changed = {name for name, factor in quantized.clipping_factors().items() if not torch.equal(factor, before[name])}
    assert changed == {"cache.key"}


def test_the_clip_search_lowers_the_error_of_the_weights(workspace):
    quantized, problem = build(workspace, 1)

    def errors():
        found = {}
        with torch.no_grad():
            for site, names in quantized.sites.items():
                moment = quantized.transformed_moment(site, problem.moments[f"{site}.moment"][0])
                for name in names:
                    weight = quantized.folded_weights()[name]
                    clip = quantized.weight_clip[module_key(name)]()
                    scale = symmetric_scale(weight, 3, clip, signed=True)
                    difference = quantize(weight, scale, 3) * scale - weight
                    found[name] = ((difference @ moment) * difference).sum().item()
        return found

    before = errors()
    search_clips(quantized, problem, ALL)
    after = errors()
    assert all(after[name] < before[name] for name in before)


class NanOnce:
    """Stands for Problem.evaluate: NaN at one call with gradients, or at all of them."""

    def __init__(self, monkeypatch, always=False):
        self.original, self.always, self.calls = Problem.evaluate, always, 0
        monkeypatch.setattr(Problem, "evaluate", lambda problem, *arguments: self(problem, *arguments))

    def __call__(self, problem, *arguments):
        loss = self.original(problem, *arguments)
        if not torch.is_grad_enabled():
            return loss
        self.calls += 1
        return loss * math.nan if self.always or self.calls == 2 else loss


def rates(monkeypatch):
    """The learning rates of the optimisers as they are made."""
    seen, original = [], module._optimisers

    def optimisers(*arguments):
        made = original(*arguments)
        seen.append(made[0].param_groups[0]["lr"])
        return made

    monkeypatch.setattr(module, "_optimisers", optimisers)
    return seen


def test_a_diverged_fit_starts_again_with_a_smaller_rate_and_says_so(workspace, monkeypatch, caplog):
    quantized, problem = build(workspace, 1, start="random")
    NanOnce(monkeypatch)
    seen = rates(monkeypatch)
    with caplog.at_level(logging.WARNING, logger="altq.calibration.fit"):
        fit = fit_sublayer(quantized, problem, recipe(steps=4, learning_rate=1e-2), "block 0 ffn")
    assert fit.num_restarts == 1
    assert seen == pytest.approx([1e-2, 1e-3])
    [record] = caplog.records
    assert "block 0 ffn: the loss is nan at step 1 with 1 of the learning rate; back to the start" in record.getMessage()
    assert all(torch.isfinite(tensor).all() for tensor in quantized.state_dict().values())
    assert fit.loss <= fit.start_loss


def test_a_restarted_fit_begins_where_the_first_began(workspace, monkeypatch):
    # The restart's result is that of a fit with the smaller rate from the outset.
    given = recipe(steps=4, learning_rate=1e-2, search_windows=4)
    expected = build(workspace, 1, start="random")
    fit_sublayer(*expected, given.model_copy(update={"learning_rate": 1e-3}), "here")
    quantized, problem = build(workspace, 1, start="random")
    NanOnce(monkeypatch)
    assert fit_sublayer(quantized, problem, given, "here").num_restarts == 1
    for name, tensor in quantized.state_dict().items():
        torch.testing.assert_close(tensor, expected[0].state_dict()[name], rtol=1e-5, atol=1e-6)


def test_a_factor_that_becomes_singular_is_a_restart(workspace, monkeypatch, caplog):
    quantized, problem = build(workspace, 1)
    original, calls = torch.optim.AdamW.step, []

    def step(optimiser, *arguments):
        original(optimiser, *arguments)
        calls.append(1)
        if len(calls) == 2:
            with torch.no_grad():
                quantized.transforms["down"].online.left[0].zero_()

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    fit = fit_sublayer(quantized, problem, recipe(steps=2), "block 0 ffn")
    assert fit.num_restarts == 1 and "down" in caplog.text
    assert quantized.transforms["down"].check()[0]


def test_a_fit_that_always_diverges_is_an_error_that_names_the_sublayer(workspace, monkeypatch):
    quantized, problem = build(workspace, 1)
    NanOnce(monkeypatch, always=True)
    with pytest.raises(ValueError, match="block 0 ffn: the loss is nan at step 0.*even at 0.01 of the learning rate"):
        fit_sublayer(quantized, problem, recipe(steps=3), "block 0 ffn")


def test_a_loss_that_is_not_finite_at_the_start_is_an_error(workspace):
    quantized, problem = build(workspace, 1)
    problem.inputs[0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="block 0 ffn: the loss is nan before any step"):
        fit_sublayer(quantized, problem, recipe(steps=3), "block 0 ffn")


def test_two_fits_give_the_same_bits(workspace):
    results = []
    for _ in range(2):
        quantized, problem = build(workspace, 0, "rotation")
        fit = fit_sublayer(quantized, problem, recipe(steps=3, clip_search=True), "here")
        results.append((fit, quantized.state_dict()))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(tensor, results[1][1][name]) for name, tensor in results[0][1].items())
