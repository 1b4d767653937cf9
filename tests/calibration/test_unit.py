"""Both halves of a block as one unit, in float64, against transformers' own block."""

import copy

import pytest
import torch
from models_for_tests import MODELS, double_model, recipe, relative_error

from altq.calibration import unit as module
from altq.calibration.start import start_sublayer
from altq.calibration.states import States
from altq.calibration.sublayer import QuantizedSublayer
from altq.calibration.unit import Problem, Unit
from altq.experiment.kinds import HALVES
from altq.experiment.setting import FULL_PRECISION, Setting
from altq.models.sublayer import Sublayer
from altq.quantizers.clipping import Clip
from altq.quantizers.quantizer import Quantizers

pytestmark = pytest.mark.usefixtures("double_transforms")

SETTING = Setting(4, 4, 4, 4)
ALL = torch.arange(4)


def double_unit(workspace, block_id=1, kind="affine", setting=SETTING, halves=HALVES, **options):
    """(unit, its block as it was, its block as the unit drives it, the block's arguments), all in float64."""
    skeleton, model = double_model(workspace.model)
    states = States(workspace.states)
    block = model.get_submodule(skeleton.family.blocks)[block_id]
    original = copy.deepcopy(block)
    sublayers = []
    for half in halves:
        sublayer = Sublayer(block, skeleton.family, half)
        observed = states.observed(2 * block_id + HALVES.index(half))
        observed = {name: tensor.double() for name, tensor in observed.items()}
        generator = torch.Generator().manual_seed(0)
        transforms = start_sublayer(sublayer, observed, kind=kind, recipe=recipe(**options), generator=generator)
        sublayers.append(QuantizedSublayer(sublayer, transforms, Quantizers.at(setting, signed=True)))
    arguments = skeleton.block_arguments(states.length)[block_id]
    return Unit(sublayers, arguments).double(), original, block, arguments


def inputs_of(workspace, block_id=1):
    return States(workspace.states).state(2 * block_id).double()


@torch.no_grad()
def forward(unit, states):
    unit.prepare()
    return unit(states)


@pytest.mark.parametrize("name", MODELS)
def test_a_block_unit_adds_what_transformers_own_block_adds_with_its_projections(workspaces, name):
    workspace = workspaces(name)
    unit, original, block, arguments = double_unit(workspace)
    states = inputs_of(workspace)
    added = forward(unit, states)
    # The unit's sublayers put their projections into the block: its own forward is both halves, quantized.
    with torch.no_grad():
        assert relative_error(states + added, block(states, **arguments)) < 1e-12
        assert relative_error(states + added, original(states, **arguments)) > 1e-3


def test_a_block_unit_is_its_halves_by_hand(workspaces):
    workspace = workspaces("llama_gqa")
    unit, *_, arguments = double_unit(workspace)
    states = inputs_of(workspace)
    added = forward(unit, states)
    attention, ffn = unit.sublayers
    with torch.no_grad():
        first = attention(attention.sublayer.norm(states), arguments)
        second = ffn(ffn.sublayer.norm(states + first), arguments)
        torch.testing.assert_close(added, first + second, rtol=1e-12, atol=1e-12)
        # The second half sees what the quantized first half made, not the full-precision state.
        between = States(workspace.states).state(3).double()
        assert relative_error(ffn(ffn.sublayer.norm(between), arguments), second) > 1e-3


@pytest.mark.parametrize("half", HALVES)
def test_a_unit_of_one_sublayer_adds_what_it_adds(workspaces, half):
    workspace = workspaces("llama_gqa")
    unit, *_, arguments = double_unit(workspace, halves=[half])
    states = inputs_of(workspace)
    added = forward(unit, states)
    [quantized] = unit.sublayers
    with torch.no_grad():
        assert torch.equal(added, quantized(quantized.sublayer.norm(states), arguments))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["rotation", "affine"])
def test_at_16_bits_a_block_unit_is_the_block(workspaces, name, kind):
    workspace = workspaces(name)
    unit, original, _, arguments = double_unit(workspace, kind=kind, setting=FULL_PRECISION)
    states = inputs_of(workspace)
    added = forward(unit, states)
    with torch.no_grad():
        outputs = original(states, **arguments)
    assert relative_error(states + added, outputs) < 1e-10
    problem = Problem(states, outputs, "relative")
    assert problem.settled(unit, ALL) < 1e-18
    # The recorded states are those of float32.
    recorded = Problem(states, States(workspace.states).state(4).double(), "relative")
    assert recorded.settled(unit, ALL) < 1e-9


@pytest.mark.parametrize("loss", ["mse", "relative"])
def test_the_loss_of_a_block_unit_by_hand(workspaces, loss):
    workspace = workspaces("qwen3")
    unit, original, _, arguments = double_unit(workspace, setting=Setting(3, 3, 3, 3))
    states = inputs_of(workspace)
    with torch.no_grad():
        outputs = original(states, **arguments)
    found = Problem(states, outputs, loss).settled(unit, torch.tensor([1, 2]))
    added, total, weight_sum = forward(unit, states), 0.0, 0.0
    for window in (1, 2):
        for token in range(states.shape[1]):
            error = states[window, token] + added[window, token] - outputs[window, token]
            weight = 1 / outputs[window, token].square().mean().item() if loss == "relative" else 1.0
            total += weight * error.square().mean().item()
            weight_sum += weight
    assert found == pytest.approx(total / weight_sum, rel=1e-10)
    assert found > 1e-3


def test_a_loss_that_is_nan_is_not_hidden(workspaces):
    workspace = workspaces("llama_gqa")
    unit, *_ = double_unit(workspace)
    states, outputs = inputs_of(workspace), States(workspace.states).state(4).double()
    states[0, 0, 0] = torch.nan
    found = Problem(states, outputs, "relative").settled(unit, ALL)
    assert found != found


def test_gradients_of_a_block_s_loss_reach_both_halves(workspaces):
    workspace = workspaces("qwen3")
    unit, *_ = double_unit(workspace)
    unit.prepare()
    Problem(inputs_of(workspace), States(workspace.states).state(4).double(), "relative").evaluate(unit, ALL).backward()
    names = {name.split(".")[1] for name, _ in unit.named_parameters()}
    assert names == {"0", "1"}
    for name, parameter in unit.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all() and parameter.grad.norm() > 0, name


def test_with_half_the_windows_at_once_loss_and_gradients_are_the_same(workspaces, monkeypatch):
    workspace = workspaces("llama_gqa")
    unit, *_ = double_unit(workspace)
    problem = Problem(inputs_of(workspace), States(workspace.states).state(4).double(), "relative")

    def found():
        unit.prepare()
        unit.zero_grad()
        loss = problem.evaluate(unit, ALL)
        loss.backward()
        return loss.item(), {name: parameter.grad.clone() for name, parameter in unit.named_parameters()}

    at_once, expected = found()
    seen = []
    monkeypatch.setattr(module.BATCH_SIZE, "is_halved", True)
    unit.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    in_halves, gradients = found()
    assert seen == [2] * 4  # forward, and each again in the backward pass
    assert in_halves == pytest.approx(at_once, rel=1e-12)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-9, atol=1e-12 * gradient.abs().max().item())


def test_settled_folds_the_weights_as_they_now_are(workspaces):
    workspace = workspaces("llama_gqa")
    unit, *_ = double_unit(workspace)
    problem = Problem(inputs_of(workspace), States(workspace.states).state(4).double(), "relative")
    before = problem.settled(unit, ALL)
    for quantized in unit.sublayers:
        for clip in quantized.weight_clip.values():
            clip.set(0.3)
    assert problem.evaluate(unit, ALL).item() == pytest.approx(before, rel=1e-12)
    assert problem.settled(unit, ALL) > 1.01 * before


def test_the_clips_of_a_unit_are_all_of_them(workspaces):
    workspace = workspaces("llama_gqa")
    unit, *_ = double_unit(workspace)
    clips = list(unit.clips())
    # q, k, v, o, gate, up, down; the four inputs; keys and values.
    assert len(clips) == 7 + 4 + 2 and all(isinstance(clip, Clip) for clip in clips)
    for clip in clips:
        clip.set(0.6)
    for quantized in unit.sublayers:
        for factor in quantized.clipping_factors().values():
            torch.testing.assert_close(factor, torch.full_like(factor, 0.6))
