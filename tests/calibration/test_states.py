import numpy as np
import pytest
import torch
from models_for_tests import Workspace, make_tokens, relative_error, transformers_model
from safetensors.torch import load_file, save_file

from altq.calibration import states as module
from altq.calibration.bank import read_index
from altq.calibration.recording import record_states
from altq.calibration.states import (
    MOMENT_WINDOWS,
    WINDOWS_PER_BATCH,
    States,
    second_moment,
    spread,
    token_weights,
    windows_of_step,
)
from altq.experiment.setting import Setting
from altq.models.skeleton import Skeleton


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace("qwen3", tmp_path_factory.mktemp("states"))


def hooked_inputs(workspace):
    """What transformers' own model feeds its linear layers, by the name of the layer."""
    model, seen = transformers_model(workspace.model), {}
    for name, linear in model.named_modules():
        if name.endswith("_proj"):
            linear.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: (inputs[0], output)}))
    with torch.no_grad():
        output = model(torch.from_numpy(workspace.tokens).long(), output_hidden_states=True, use_cache=False)
    return seen, output.hidden_states, model


def test_states_are_the_hidden_states_of_transformers_own_model(workspace):
    states = States(workspace.states)
    seen, hidden_states, model = hooked_inputs(workspace)
    assert (states.num_windows, states.length, states.hidden) == (4, 12, 30)
    for block in range(2):
        before, between, after = (states.state(2 * block + i) for i in range(3))
        assert relative_error(before, hidden_states[block]) < 1e-6
        # The output of o and of down is what each half adds.
        prefix = f"model.layers.{block}"
        assert relative_error(between - before, seen[f"{prefix}.self_attn.o_proj"][1]) < 1e-5
        assert relative_error(after - between, seen[f"{prefix}.mlp.down_proj"][1]) < 1e-5
    with torch.no_grad():
        assert relative_error(model.model.norm(states.state(4)), hidden_states[-1]) < 1e-6


def test_output_norms_are_part_of_what_is_added(tmp_path):
    workspace = Workspace("gemma3_text", tmp_path)
    states = States(workspace.states)
    with torch.no_grad():
        model, tokens = transformers_model(workspace.model), torch.from_numpy(workspace.tokens).long()
        hidden_states = model(tokens, output_hidden_states=True, use_cache=False).hidden_states
    assert relative_error(states.state(0), hidden_states[0]) < 1e-6  # with Gemma's factor at the embedding
    assert relative_error(states.state(2), hidden_states[1]) < 1e-6


SIZES = [
    {"qkv": (1, 30), "o": (1, 24), "key": (2, 6), "value": (2, 6)},
    {"gate_up": (1, 30), "down": (1, 42)},
]


def test_every_site_has_a_moment_a_sensitivity_and_a_peak(workspace):
    states = States(workspace.states)
    for s in range(4):
        expected = {f"{site}.{what}" for site in SIZES[s % 2] for what in ("moment", "sensitivity", "peak")}
        assert states.observed(s).keys() == expected


def test_moments_are_symmetric_and_positive_semidefinite_at_every_site(workspace):
    states = States(workspace.states)
    for s in range(4):
        moments = {name: tensor for name, tensor in states.observed(s).items() if not name.endswith(".peak")}
        assert len(moments) == 2 * len(SIZES[s % 2])
        for name, moment in moments.items():
            heads, size = SIZES[s % 2][name.partition(".")[0]]
            assert moment.shape == (heads, size, size)
            largest = moment.abs().max()
            assert largest > 0
            assert (moment - moment.mT).abs().max() <= 1e-5 * largest
            assert torch.linalg.eigvalsh(moment.double()).min() >= -1e-4 * largest


def test_second_moments_by_hand():
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])  # [batch, length, d]
    assert second_moment(x).tolist() == [[[10.0, 14.0], [14.0, 20.0]]]
    heads = torch.stack([x, 2 * x], dim=1)  # [batch, heads, length, d]
    assert second_moment(heads).tolist() == [[[10.0, 14.0], [14.0, 20.0]], [[40.0, 56.0], [56.0, 80.0]]]


def test_token_weights():
    state = torch.tensor([[[3.0, 4.0], [1.0, 1.0]]])
    assert token_weights("mse", state).tolist() == [[[1.0], [1.0]]]
    torch.testing.assert_close(token_weights("relative", state), torch.tensor([[[1 / 12.5], [1.0]]]))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-8])
def test_a_token_of_nothing_has_a_weight_of_its_own(scale):
    state = torch.tensor([[[3.0, 4.0], [scale, -scale]]])
    weights = token_weights("relative", state)
    assert weights[0, 0] == 1 / 12.5 and weights[0, 1] == pytest.approx(1e6)


def test_embeddings_of_zero_are_calibrated(tmp_path):
    # The first token of a window sees no other one: its state is zero after attention, too.
    workspace = Workspace("llama_gqa", tmp_path)
    path = workspace.model / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"][:30] = 0
    save_file(tensors, path, metadata={"format": "pt"})
    assert (workspace.tokens[:, 0] < 30).any() and (workspace.tokens >= 30).any()
    record_states(workspace.model, workspace.tokens, loss="relative", folder=workspace.states, fingerprint="test")
    states = States(workspace.states)
    assert (states.state(1).square().mean(-1) == 0).any()
    for s in range(4):
        assert all(tensor.isfinite().all() for tensor in states.observed(s).values())
    for kind in ("affine", "balance"):
        bank = workspace.bank(Setting(4, 4, 4, 4), kind, clip_search=True, steps=2)
        losses = [(entry["start_loss"], entry["loss"]) for entry in read_index(bank)["entries"]]
        assert all(0 < loss <= start_loss < 1 for start_loss, loss in losses)


@pytest.mark.parametrize(
    ("num_windows", "count", "expected"),
    [
        (4, 2, [0, 3]),
        (7, 3, [0, 3, 6]),
        (5, 1, [0]),
        (1, 1, [0]),
        (3, 8, [0, 1, 2]),
        (6, 6, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_windows_are_spread_from_the_first_to_the_last(num_windows, count, expected):
    assert spread(num_windows, count).tolist() == expected


def test_as_many_windows_are_spread_as_are_wanted():
    for num_windows in range(1, 40):
        for count in range(1, num_windows + 1):
            found = spread(num_windows, count)
            assert found.dtype == torch.int64 and len(set(found.tolist())) == count
            assert found.tolist() == sorted(found.tolist()) and found[0] == 0 and found[-1] < num_windows
    assert len(set(spread(9, 8).tolist())) == 8


def test_steps_take_the_windows_in_turn_and_leave_an_incomplete_rest():
    assert [windows_of_step(step, 5, 2).tolist() for step in range(3)] == [[0, 1], [2, 3], [0, 1]]
    assert windows_of_step(7, 3, 8).tolist() == [0, 1, 2]


def test_the_moment_of_a_site_is_of_its_inputs_weighted_by_their_gradients(workspace):
    # By autograd over transformers' own layer, with the probe that the recording draws first.
    states, skeleton = States(workspace.states), Skeleton(workspace.model)
    block, arguments = skeleton.block(0), skeleton.block_arguments(12)[0]
    normed = block.input_layernorm(states.state(0)).requires_grad_()
    added, _ = block.self_attn(hidden_states=normed, **arguments)
    weights = token_weights("relative", states.state(1))
    probe = torch.randn(added.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((added * probe * weights.sqrt()).sum(), normed)
    x = normed.detach()
    expected = torch.einsum("bti,btj,bt->ij", x, x, gradient.square().sum(-1))
    read = torch.einsum("bti,btj,bt->ij", gradient, gradient, x.square().sum(-1))
    moments = states.observed(0)
    # Recorded with reduced products on processors that have them.
    assert relative_error(moments["qkv.moment"][0], expected) < 2e-2
    assert relative_error(moments["qkv.sensitivity"][0], read) < 2e-2


@pytest.fixture(scope="module", params=["qwen3", "llama_gqa"])
def long_workspace(request, tmp_path_factory):
    """More windows than moments and peaks are taken from."""
    tokens = make_tokens(windows=MOMENT_WINDOWS + 3, length=5)
    return Workspace(request.param, tmp_path_factory.mktemp("long"), tokens=tokens, full_products=True)


def test_tokens_are_kept_with_their_states(long_workspace):
    states = States(long_workspace.states)
    tokens = states.tokens()
    assert tokens.dtype == torch.int64 and tokens.shape == (states.num_windows, states.length) == (19, 5)
    assert tokens.tolist() == long_workspace.tokens.tolist()
    assert torch.equal(Skeleton(long_workspace.model).embed(tokens), states.state(0))


def seen_by_transformers(workspace):
    """What passes every site of transformers' own model: [windows, length, d] or [windows, heads, length, d]."""
    model, inputs = transformers_model(workspace.model), {}
    for name, linear in model.named_modules():
        if name.endswith("_proj"):
            linear.register_forward_hook(lambda _, arguments, __, name=name: inputs.update({name: arguments[0]}))
    with torch.no_grad():
        cache = model(torch.from_numpy(workspace.tokens).long(), use_cache=True).past_key_values
    seen = []
    for block, layer in enumerate(cache.layers):
        attention, mlp = f"model.layers.{block}.self_attn", f"model.layers.{block}.mlp"
        seen.append({"qkv": inputs[f"{attention}.v_proj"], "o": inputs[f"{attention}.o_proj"]})
        seen[-1] |= {"key": layer.keys, "value": layer.values}  # keys after rotary embedding
        seen.append({"gate_up": inputs[f"{mlp}.up_proj"], "down": inputs[f"{mlp}.down_proj"]})
    return seen


def test_peaks_are_the_largest_magnitudes_that_transformers_own_model_has_there(long_workspace):
    states = States(long_workspace.states)
    for s, sites in enumerate(seen_by_transformers(long_workspace)):
        observed = states.observed(s)
        for site, x in sites.items():
            by_window = x.abs().amax(-2)  # [windows, d] or [windows, heads, d]
            found, expected = observed[f"{site}.peak"], by_window[:MOMENT_WINDOWS].amax(0)
            assert found.shape == expected.shape and expected.min() > 0
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
            # It takes all these windows, none beyond them, and magnitudes.
            assert not torch.allclose(found, by_window[:WINDOWS_PER_BATCH].amax(0), rtol=1e-3)
            assert not torch.allclose(found, by_window[1 - MOMENT_WINDOWS :].amax(0), rtol=1e-3)
            assert not torch.allclose(found, x[:MOMENT_WINDOWS].amax(-2).amax(0), rtol=1e-3)


def test_windows_are_independent_of_the_batches_they_run_in(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WINDOWS_PER_BATCH", 3)
    record_states(workspace.model, workspace.tokens, loss=workspace.loss, folder=tmp_path, fingerprint="test")
    for s in range(5):
        torch.testing.assert_close(States(tmp_path).state(s), States(workspace.states).state(s), rtol=1e-5, atol=1e-5)


def test_the_fingerprint_follows_tokens_and_loss(workspace, tmp_path):
    fingerprints = {str(States(workspace.states).fingerprint_of([1]))}
    record_states(
        workspace.model, make_tokens(seed=1), loss=workspace.loss, folder=tmp_path / "tokens", fingerprint="test"
    )
    record_states(workspace.model, workspace.tokens, loss="mse", folder=tmp_path / "loss", fingerprint="test")
    assert States(tmp_path / "loss").loss == "mse"
    fingerprints |= {str(States(tmp_path / name).fingerprint_of([1])) for name in ("tokens", "loss")}
    assert len(fingerprints) == 3


def test_states_are_read_lazily_and_not_changed_by_their_readers(workspace):
    states = States(workspace.states)
    changed = states.state(1)
    changed.zero_()
    assert states.state(1).abs().max() > 0
    assert np.load(workspace.states / "state_001.npy").dtype == np.float32
