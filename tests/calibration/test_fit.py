import logging
import math

import pytest
import torch
from models_for_tests import KINDS, Workspace, recipe

from altq.calibration import fit as module
from altq.calibration.descent import Descent
from altq.calibration.fit import fit_unit, search_clips, start_clips
from altq.calibration.start import start_sublayer
from altq.calibration.states import States
from altq.calibration.sublayer import QuantizedSublayer, module_key
from altq.calibration.unit import Problem, Unit
from altq.experiment.kinds import HALVES
from altq.experiment.setting import FULL_PRECISION, Setting
from altq.models.skeleton import Skeleton
from altq.models.sublayer import Sublayer
from altq.quantizers.clipping import LARGEST
from altq.quantizers.quantizer import Quantizers
from altq.quantizers.uniform import quantize, symmetric_scale
from altq.transforms.rotation import Rotation, orthogonality_error

SETTING = Setting(3, 3, 3, 3)
ALL = torch.arange(4)
"""Every window of the states."""

ENDS = torch.tensor([0, 3])
"""The windows that a search over two of them looks at."""

BLOCK = (2, 3)
"""Both sublayers of block 1."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace("llama_gqa", tmp_path_factory.mktemp("fit"))


def build(workspace, members, kind="affine", setting=SETTING, *, signed=True, **options):
    """(unit, problem, observed) of one sublayer, or of several of a block."""
    members = [members] if isinstance(members, int) else members
    skeleton, states = Skeleton(workspace.model), States(workspace.states)
    block, sublayers = skeleton.block(members[0] // 2), []
    for s in members:
        sublayer = Sublayer(block, skeleton.family, HALVES[s % 2])
        generator = torch.Generator().manual_seed(s)
        transforms = start_sublayer(
            sublayer, states.observed(s), kind=kind, recipe=recipe(**options), generator=generator
        )
        sublayers.append(QuantizedSublayer(sublayer, transforms, Quantizers.at(setting, signed=signed)))
    unit = Unit(sublayers, skeleton.block_arguments(states.length)[members[0] // 2])
    problem = Problem(states.state(members[0]), states.state(members[-1] + 1), states.loss)
    return unit, problem, [states.observed(s) for s in members]


def start_and_fit(unit, problem, observed, recipe, name):
    """As calibration does it: clipping factors first, for which alone it keeps what was observed."""
    start_clips(unit, problem, observed=observed, recipe=recipe)
    return fit_unit(unit, problem, recipe=recipe, name=name)


def loss_of(unit, problem, windows=ALL):
    with torch.no_grad():
        unit.prepare()
        return problem.evaluate(unit, windows).item()


def state_of(unit):
    return {name: tensor.clone() for name, tensor in unit.state_dict().items()}


def changed_names(unit, before):
    return {name for name, tensor in unit.state_dict().items() if not torch.equal(tensor, before[name])}


def test_the_loss_is_zero_at_full_precision_for_every_kind(workspace):
    for members in (0, 1, 2, 3, BLOCK):
        for kind in KINDS:
            # float32, and with operands of 8 bits where the processor has reduced products.
            unit, problem, _ = build(workspace, members, kind, FULL_PRECISION)
            assert loss_of(unit, problem) < 1e-4
            unit, problem, _ = build(workspace, members, kind)
            assert loss_of(unit, problem) > 1e-3


@pytest.mark.parametrize("members", [1, BLOCK], ids=str)
def test_the_loss_is_the_weighted_mean_squared_error_of_what_is_added(workspace, members):
    unit, problem, _ = build(workspace, members)
    with torch.no_grad():
        unit.prepare()
        found = problem.evaluate(unit, torch.tensor([1, 2])).item()
        inputs, outputs = problem.inputs[1:3], problem.outputs[1:3]
        error = inputs + unit(inputs) - outputs
        weights = 1 / outputs.square().mean(-1)
        expected = (error.square().mean(-1) * weights).sum() / weights.sum()
    assert found == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("members", [0, 1, BLOCK], ids=str)
@pytest.mark.parametrize("kind", ["rotation", "affine", "balance"])
def test_steps_never_raise_the_loss_and_what_is_reported_is_so(workspace, members, kind):
    unit, problem, observed = build(workspace, members, kind)
    given = recipe(steps=6, clip_search=True, learning_rate=5e-3)
    fit = start_and_fit(unit, problem, observed, given, "here")
    assert fit.loss <= fit.start_loss and fit.num_restarts == 0
    assert fit.steps_kept == (fit.loss < fit.start_loss)
    assert loss_of(unit, problem, ENDS) == pytest.approx(fit.loss, rel=1e-6)


def test_steps_lower_the_loss_from_a_random_start(workspace):
    for members in (0, 1, BLOCK):
        unit, problem, observed = build(workspace, members, start="random", scaling="ones")
        given = recipe(steps=20, learning_rate=5e-3, search_windows=4)
        fit = start_and_fit(unit, problem, observed, given, "here")
        assert fit.steps_kept and fit.loss < 0.97 * fit.start_loss


def test_steps_that_raise_the_loss_are_taken_back(workspace, monkeypatch, caplog):
    unit, problem, observed = build(workspace, 1)
    before = {}

    def spoil(descent, *_):
        before.update(state_of(unit))
        with torch.no_grad():
            unit.sublayers[0].weight_clip["down_proj"].set(0.02)

    monkeypatch.setattr(Descent, "take_steps", spoil)
    with caplog.at_level(logging.INFO, logger=module.__name__):
        fit = start_and_fit(unit, problem, observed, recipe(steps=3), "here")
    [said] = caplog.messages
    assert said.startswith("here: 3 steps taken back, from a loss of ")
    assert float(said.rpartition("loss of ")[2].split()[0]) > fit.start_loss
    assert before and not fit.steps_kept and fit.loss == fit.start_loss
    assert changed_names(unit, before) == set()


def test_rotations_stay_orthogonal(workspace):
    unit, problem, _ = build(workspace, BLOCK, "rotation", start="random")
    rotations = [m for m in unit.modules() if isinstance(m, Rotation)]
    before = [rotation.right.detach().clone() for rotation in rotations]
    # Not through fit_unit, which takes steps back that raise the loss.
    module.descent_of(unit, problem, recipe(steps=8, learning_rate=2e-2)).run(8, "here")
    assert len(rotations) == 2
    for rotation, start in zip(rotations, before, strict=True):
        assert not torch.equal(rotation.right, start)
        assert max(orthogonality_error(factor) for factor in (rotation.left, rotation.right)) < 1e-6


def test_halves_that_are_not_fitted_take_no_step(workspace, monkeypatch):
    monkeypatch.setattr(Descent, "take_steps", lambda *_: pytest.fail("a step was taken"))
    for given in (recipe(steps=5, fitted=["ffn"]), recipe(steps=0), recipe(steps=5, fitted=[])):
        fit = start_and_fit(*build(workspace, 0), given, "here")
        assert fit.loss == fit.start_loss and not fit.steps_kept


@pytest.mark.parametrize("fitted", [["attention"], ["ffn"], ["attention", "ffn"]], ids=lambda fitted: "-".join(fitted))
def test_only_the_fitted_halves_of_a_block_change(workspace, fitted):
    unit, problem, observed = build(workspace, BLOCK, start="random", scaling="ones")
    for clip in unit.clips():
        clip.set(recipe().initial_clip)
    before = state_of(unit)
    given = recipe(steps=10, learning_rate=5e-3, search_windows=4, fitted=fitted)
    assert start_and_fit(unit, problem, observed, given, "here").steps_kept
    changed = changed_names(unit, before)
    # Every transform and clip of a fitted half, and nothing of the other.
    expected = {name for name in before if ("attention", "ffn")[int(name.split(".")[1])] in fitted}
    assert changed == expected


def test_scalings_at_the_other_sites_take_no_steps():
    # Steps would make free matrices of them.
    with pytest.raises(ValueError, match="set steps: 0"):
        recipe(other_sites="scaling", steps=1)


def test_both_halves_of_a_block_are_fitted_to_its_output_alone(workspace):
    # Whatever the state between the halves: only the block's input and output are in its problem.
    unit, problem, observed = build(workspace, BLOCK, start="random", scaling="ones")
    given = recipe(steps=10, learning_rate=5e-3, search_windows=4)
    fit = start_and_fit(unit, problem, observed, given, "here")
    states = States(workspace.states)
    with torch.no_grad():
        unit.prepare()
        added, target = unit(states.state(2)), states.state(4) - states.state(2)
        weights = 1 / states.state(4).square().mean(-1)
        error = ((added - target).square().mean(-1) * weights).sum() / weights.sum()
    assert error.item() == pytest.approx(fit.loss, rel=1e-5)
    assert fit.loss < 0.97 * fit.start_loss


@pytest.mark.parametrize("members", [0, 1, BLOCK], ids=str)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_clip_search_lowers_the_loss(workspace, members, bits):
    unit, problem, observed = build(workspace, members, setting=Setting(bits, bits, bits, bits))
    before = loss_of(unit, problem)
    search_clips(unit, problem, observed=observed, windows=ALL)
    assert loss_of(unit, problem) < before


def factors_of(unit):
    return {
        f"{quantized.sublayer.name}.{name}": factor
        for quantized in unit.sublayers
        for name, factor in quantized.clipping_factors().items()
    }


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (Setting(16, 16, 4, 16), {"attention.cache.key"}),
        (Setting(16, 16, 16, 4), {"attention.cache.value"}),
        (
            Setting(16, 4, 16, 16),
            {"attention.activation.qkv", "attention.activation.o", "ffn.activation.gate_up", "ffn.activation.down"},
        ),
        (
            Setting(4, 16, 16, 16),
            {f"attention.weight.{name}_proj" for name in "qkvo"}
            | {f"ffn.weight.{name}_proj" for name in ("gate", "up", "down")},
        ),
    ],
    ids=["keys", "values", "activations", "weights"],
)
def test_the_clip_search_leaves_full_precision_alone(workspace, setting, expected):
    unit, problem, observed = build(workspace, BLOCK, setting=setting)
    for clip in unit.clips():
        clip.set(0.51)  # not on the grid
    before = factors_of(unit)
    search_clips(unit, problem, observed=observed, windows=ALL)
    changed = {name for name, factor in factors_of(unit).items() if not torch.equal(factor, before[name])}
    assert changed == expected


@pytest.mark.parametrize("members", [0, 1, BLOCK], ids=str)
@pytest.mark.parametrize("initial", [0.5, 0.982, 1.0])
def test_without_search_and_steps_clips_are_the_initial_clip(workspace, members, initial):
    unit, problem, observed = build(workspace, members)
    start_and_fit(unit, problem, observed, recipe(initial_clip=initial), "here")
    factors = factors_of(unit)
    assert len(factors) == {0: 8, 1: 5, BLOCK: 13}[members]
    for factor in factors.values():
        # No sigmoid reaches 1.
        torch.testing.assert_close(factor, torch.full_like(factor, min(initial, LARGEST)), rtol=0, atol=1e-6)


def test_clips_that_are_not_searched_keep_the_initial_clip(workspace):
    unit, problem, observed = build(workspace, BLOCK, setting=Setting(16, 16, 4, 16))
    start_and_fit(unit, problem, observed, recipe(initial_clip=0.77, clip_search=True), "here")
    for name, factor in factors_of(unit).items():
        kept = torch.allclose(factor, torch.full_like(factor, 0.77), rtol=0, atol=1e-6)
        assert kept == (name != "attention.cache.key"), name


def test_the_initial_clip_is_what_the_loss_before_steps_is_of(workspace):
    losses = []
    for initial in (0.3, 1.0):
        unit, problem, observed = build(workspace, 1)
        fit = start_and_fit(unit, problem, observed, recipe(initial_clip=initial, search_windows=4), "here")
        assert fit.start_loss == pytest.approx(loss_of(unit, problem), rel=1e-6)
        losses.append(fit.start_loss)
    assert losses[0] != pytest.approx(losses[1], rel=1e-2)


@pytest.mark.parametrize("members", [1, BLOCK], ids=str)
def test_the_clip_search_lowers_the_error_of_the_weights(workspace, members):
    unit, problem, observed = build(workspace, members)

    def errors():
        found = {}
        for quantized, seen in zip(unit.sublayers, observed, strict=True):
            for site, names in quantized.sites.items():
                with torch.no_grad():
                    moment = quantized.transformed_moment(site, seen[f"{site}.moment"][0])
                    folded = quantized.folded_weights()
                for name in names:
                    clip = quantized.weight_clip[module_key(name)]().detach()
                    scale = symmetric_scale(folded[name], 3, clip, signed=True)
                    difference = quantize(folded[name], scale, 3) * scale - folded[name]
                    found[name] = ((difference @ moment) * difference).sum().item()
        return found

    before = errors()
    search_clips(unit, problem, observed=observed, windows=ALL)
    after = errors()
    assert len(before) == {1: 3, BLOCK: 7}[members]
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
    seen, original = [], module.make_optimisers

    def optimisers(*arguments):
        made = original(*arguments)
        seen.append(made[0].param_groups[0]["lr"])
        return made

    monkeypatch.setattr(module, "make_optimisers", optimisers)
    return seen


def test_a_diverged_fit_starts_again_with_a_smaller_rate_and_says_so(workspace, monkeypatch, caplog):
    unit, problem, observed = build(workspace, 1, start="random")
    NanOnce(monkeypatch)
    seen = rates(monkeypatch)
    with caplog.at_level(logging.WARNING, logger="altq.calibration.descent"):
        fit = start_and_fit(unit, problem, observed, recipe(steps=4, learning_rate=1e-2), "block 0 ffn")
    assert fit.num_restarts == 1
    assert seen == pytest.approx([1e-2, 1e-3])
    [record] = caplog.records
    assert (
        "block 0 ffn: the loss is nan at step 1 with 1 of the learning rate; back to the start" in record.getMessage()
    )
    assert all(torch.isfinite(tensor).all() for tensor in unit.state_dict().values())
    assert fit.loss <= fit.start_loss


def test_a_restarted_fit_begins_where_the_first_began(workspace, monkeypatch):
    # The restart's result is that of a fit with the smaller rate from the outset.
    given = recipe(steps=4, learning_rate=1e-2, search_windows=4)
    expected = build(workspace, 1, start="random")
    start_and_fit(*expected, given.model_copy(update={"learning_rate": 1e-3}), "here")
    unit, problem, observed = build(workspace, 1, start="random")
    NanOnce(monkeypatch)
    assert start_and_fit(unit, problem, observed, given, "here").num_restarts == 1
    for name, tensor in unit.state_dict().items():
        torch.testing.assert_close(tensor, expected[0].state_dict()[name], rtol=1e-5, atol=1e-6)


def test_a_factor_that_becomes_singular_is_a_restart(workspace, monkeypatch, caplog):
    unit, problem, observed = build(workspace, 1)
    down = unit.sublayers[0].transforms["down"]
    original, calls = torch.optim.AdamW.step, []

    def step(optimiser, *arguments):
        original(optimiser, *arguments)
        calls.append(1)
        if len(calls) == 2:
            with torch.no_grad():
                down.online.left[0].zero_()

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    fit = start_and_fit(unit, problem, observed, recipe(steps=2), "block 0 ffn")
    assert fit.num_restarts == 1 and "down" in caplog.text
    assert down.check()[0]


def test_a_fit_that_always_diverges_is_an_error_that_names_the_sublayer(workspace, monkeypatch):
    unit, problem, observed = build(workspace, 1)
    NanOnce(monkeypatch, always=True)
    with pytest.raises(ValueError, match=r"block 0 ffn: the loss is nan at step 0.*even at 0.01 of the learning rate"):
        start_and_fit(unit, problem, observed, recipe(steps=3), "block 0 ffn")


def test_a_loss_that_is_not_finite_at_the_start_is_an_error(workspace):
    unit, problem, observed = build(workspace, 1)
    problem.inputs[0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="block 0 ffn: the loss is nan before any step"):
        start_and_fit(unit, problem, observed, recipe(steps=3), "block 0 ffn")


@pytest.mark.parametrize("members", [0, BLOCK], ids=str)
def test_two_fits_give_the_same_bits(workspace, members):
    results = []
    for _ in range(2):
        unit, problem, observed = build(workspace, members, "rotation")
        fit = start_and_fit(unit, problem, observed, recipe(steps=3, clip_search=True), "here")
        results.append((fit, unit.state_dict()))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(tensor, results[1][1][name]) for name, tensor in results[0][1].items())
