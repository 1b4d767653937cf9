"""End-to-end calibration: it descends, stays orthogonal, goes on where it was killed, and accumulates."""

import itertools
import logging
import math
from dataclasses import replace

import pytest
import torch
from end_to_end_for_tests import TRAINED, after_each_step, calibrate, contents, few
from models_for_tests import Workspace, make_tokens, transformers_model
from safetensors.torch import load_file, save_file

from altq.calibration import end_to_end, subject, whole_model
from altq.calibration.bank import RESIDUAL_FILE, read_entry, read_index, read_residual
from altq.calibration.end_to_end import calibrate_end_to_end
from altq.calibration.fitting import Fitting
from altq.calibration.recording import record_states
from altq.experiment.baselines import OSTQUANT, QUAROT, SPINQUANT
from altq.experiment.end_to_end_recipe import EndToEndRecipe
from altq.experiment.setting import FULL_PRECISION, Setting
from altq.models.skeleton import Skeleton
from altq.quantizers.clipping import search_row_clip
from altq.quantizers.quantizer import Quantizer
from altq.runtime import device, precision
from altq.transforms.rotation import orthogonality_error


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace("llama_gqa", tmp_path_factory.mktemp("llama_gqa"))


@pytest.fixture(scope="module")
def loud(tmp_path_factory):
    """A model with loud channels in its residual stream, read as loud as the others, as language models have them."""
    workspace = Workspace("llama_gqa", tmp_path_factory.mktemp("loud"), tokens=make_tokens(8, 16))
    path = workspace.model / "model.safetensors"
    tensors, channels, factor = load_file(path), [3, 17], 6
    tensors["model.embed_tokens.weight"][:, channels] *= factor
    for name, tensor in tensors.items():
        if "norm" in name:
            tensor *= (1 + 2 * factor**2 / 36) ** 0.5
            tensor[channels] /= factor
    save_file(tensors, path, metadata={"format": "pt"})
    record_states(workspace.model, workspace.tokens, loss="relative", folder=workspace.states, fingerprint="test")
    return workspace


@pytest.fixture
def not_rotated(monkeypatch):
    """No rotation at the start: a Hadamard matrix has spread the loud channels already, and leaves little to learn."""
    monkeypatch.setattr(whole_model, "randomized_hadamard", lambda size, generator: torch.eye(size).double())


@pytest.mark.parametrize(
    ("recipe", "share"),
    [
        (few(SPINQUANT, steps=10, windows_per_step=8), 0.9),
        (few(SPINQUANT, steps=10, windows_per_step=8, optimiser="riemannian_adam", rotation_rate=0.05), 0.98),
        (few(OSTQUANT, steps=10, windows_per_step=8, rotation_rate=0.1), 0.8),
        (few(OSTQUANT, steps=10, windows_per_step=8, rotation_rate=0.1, trained=["residual", "value"]), 0.8),
        (few(OSTQUANT, steps=10, windows_per_step=8, scaling_rate=0.05, trained=["scaling"]), 0.8),
    ],
    ids=["spinquant", "spinquant-adam", "ostquant", "ostquant-rotations", "ostquant-scalings"],
)
def test_the_loss_falls_at_every_step(loud, not_rotated, tmp_path, monkeypatch, recipe, share):
    # A bend in the place of the quantizer: it is as bad for loud channels, and its gradient is exact. That of rounding
    # is none, and on a model of random weights its steps go up and down.
    monkeypatch.setattr("altq.quantizers.quantizer.fake_quantize_asymmetric", lambda x, *_: 2 * torch.tanh(x / 2))
    index = read_index(calibrate(loud, tmp_path, recipe, setting=Setting(4, 4, 16, 16)))
    assert index["losses"][0] == pytest.approx(index["start_loss"], rel=1e-3)  # the same windows, no step yet
    losses = index["losses"]
    assert len(losses) == 10 and all(later < earlier for earlier, later in itertools.pairwise(losses))
    # What is kept is the projection of what the last step reached, and that step is a small one.
    assert index["loss"] < 1.001 * losses[-1] and index["loss"] < share * index["start_loss"]


def test_the_divergence_of_what_is_quantized_falls(loud, not_rotated, tmp_path, caplog):
    recipe = few(OSTQUANT, steps=10, windows_per_step=8, rotation_rate=0.05, scaling_rate=0.05)
    index = read_index(calibrate(loud, tmp_path, recipe, setting=Setting(4, 4, 16, 16)))
    assert index["loss"] < 0.85 * index["start_loss"]
    assert "did not lower the loss" not in caplog.text


@torch.no_grad()
def written_by(model, windows, length):
    """Tokens of the model's own making, each the likeliest: quantization makes it less sure of them."""
    tokens = torch.from_numpy(make_tokens(windows, 1)).long()
    while tokens.shape[1] < length:
        likeliest = model(tokens, use_cache=False).logits[:, -1:].argmax(-1)
        tokens = torch.cat([tokens, likeliest], 1)
    return tokens.int().numpy()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_cross_entropy_of_what_is_quantized_falls(loud, not_rotated, tmp_path, seed):
    # That of random tokens would be as high in full precision. At 2 bits quantization is much of it.
    tokens, states, losses = written_by(transformers_model(loud.model), 24, 16), tmp_path / "states", []
    record_states(loud.model, tokens, loss="relative", folder=states, fingerprint="test")
    for setting, steps in ((FULL_PRECISION, 1), (Setting(4, 2, 16, 16), 20)):
        recipe, folder = few(SPINQUANT, steps=steps, windows_per_step=24), tmp_path / str(setting)
        fitting = Fitting.end_to_end(setting=setting, seed=seed, recipe=recipe)
        calibrate_end_to_end(loud.model, states, fitting, folder, fingerprint="code")
        losses.append(read_index(folder))
    full, quantized = losses
    assert quantized["start_loss"] > 1.5 * full["start_loss"]
    # Single steps go up and down, and what they reach with them: in nine fits 0.85 to 0.93 of it.
    assert quantized["loss"] < 0.97 * quantized["start_loss"]


@pytest.mark.parametrize("name", TRAINED)
def test_rotations_are_orthogonal_afterwards_and_elsewhere(workspace, tmp_path, name):
    recipe = few(TRAINED[name], steps=4, rotation_rate={"spinquant": 1.5, "ostquant": 0.1}[name])
    trained, start = (calibrate(workspace, tmp_path / str(r.steps), r) for r in (recipe, few(recipe, steps=0)))
    moved = read_residual(trained) - read_residual(start)
    assert orthogonality_error(read_residual(trained)) < 1e-5 and moved.abs().max() > 1e-2
    assert read_index(start)["losses"] == [] and read_index(start)["loss"] is None
    for s in (0, 2):
        factors, before = (read_entry(bank, s).transforms["value"].factors.detach() for bank in (trained, start))
        assert orthogonality_error(before) < 1e-5
        assert (factors - before).abs().max() > 1e-3
        shared = [torch.equal(factor, factors[0]) for factor in factors]
        assert shared == ([True] * 3 if name == "spinquant" else [True, False, False])
        if name == "ostquant":  # an orthogonal matrix, then scales: the norms of its columns
            scale = factors.norm(dim=-2, keepdim=True)
            assert (scale - 1).abs().max() > 1e-4
            factors = factors / scale
        assert orthogonality_error(factors) < 1e-5


@pytest.mark.parametrize("recipe", [QUAROT, *map(few, TRAINED.values())], ids=["quarot", *TRAINED])
def test_rotations_drift_by_rounding_alone(workspace, tmp_path, recipe):
    assert 0 <= read_index(calibrate(workspace, tmp_path, recipe))["drift"] < 1e-4


@pytest.mark.parametrize("place", ["residual", "value"])
def test_a_rotation_that_has_left_its_manifold_is_an_error_and_no_bank(workspace, tmp_path, monkeypatch, place):
    def stretch(whole):
        value = whole.sublayers[2].transforms["value"].rotation[-1]
        (whole.rotation if place == "residual" else value).mul_(1.01)

    after_each_step(monkeypatch, stretch)
    with pytest.raises(ValueError, match=r"a rotation has left its manifold: \|R\^T R - I\| = 2.0e-02"):
        calibrate(workspace, tmp_path, few(OSTQUANT, steps=1))
    assert not list(tmp_path.iterdir())


def test_a_drift_is_said_and_projected_away(workspace, tmp_path, monkeypatch):
    after_each_step(monkeypatch, lambda whole: whole.rotation.mul_(1.001))
    bank = calibrate(workspace, tmp_path, few(SPINQUANT, steps=1))
    assert read_index(bank)["drift"] == pytest.approx(2e-3, rel=1e-2)
    assert orthogonality_error(read_residual(bank)) < 1e-5


@pytest.mark.parametrize("trained", [["residual"], ["value"], ["scaling"]], ids=str)
def test_only_what_is_trained_moves(workspace, tmp_path, trained):
    recipe = few(OSTQUANT, trained=trained, rotation_rate=0.1, scaling_rate=0.1)
    # Scalings are there only where they are trained: the start has the same ones.
    banks = [calibrate(workspace, tmp_path / str(steps), few(recipe, steps=steps)) for steps in (0, 2)]
    moved = {"residual"} if not torch.equal(*map(read_residual, banks)) else set()
    for s in range(4):
        before, after = (read_entry(bank, s).transforms for bank in banks)
        for site in before:
            changed = [
                n for n, t in before[site].state_dict().items() if not torch.equal(t, after[site].state_dict()[n])
            ]
            moved |= {site} if changed else set()
    expected = {"residual": {"residual"}, "value": {"value"}, "scaling": {"qkv", "gate_up", "down", "value"}}
    assert moved == expected[trained[0]]


@pytest.mark.parametrize(("after", "warned"), [(0.9, False), (1.0, True), (1.1, True)])
def test_a_fit_that_ends_no_lower_than_it_began_says_so(workspace, tmp_path, monkeypatch, caplog, after, warned):
    losses = [1.0, after]
    monkeypatch.setattr(end_to_end._Training, "evaluate", lambda training: losses.pop(0))
    with caplog.at_level(logging.INFO, logger=end_to_end.__name__):
        index = read_index(calibrate(workspace, tmp_path, few(SPINQUANT)))
    assert (index["start_loss"], index["loss"]) == (1.0, after)
    assert f"loss 1.0000 -> {after:.4f}" in caplog.text
    assert ("3 steps did not lower the loss" in caplog.text) == warned


def test_the_same_seed_gives_the_same_bytes(workspace, tmp_path):
    banks = [contents(calibrate(workspace, tmp_path / str(i), few(SPINQUANT), seed=i // 2)) for i in range(3)]
    assert banks[0] == banks[1] and banks[0][RESIDUAL_FILE] != banks[2][RESIDUAL_FILE]


@pytest.mark.parametrize("name", TRAINED)
def test_windows_in_memory_change_nothing_but_rounding(workspace, tmp_path, monkeypatch, name):
    # In float64, where a value that lies on the border of a code by rounding alone is not met.
    monkeypatch.setattr(subject, "Skeleton", lambda model, *_: Skeleton(model, torch.float64))
    results = []
    for size in (1, 3, 4):
        recipe = few(TRAINED[name], steps=2, windows_per_step=4, windows_in_memory=size)
        bank = calibrate(workspace, tmp_path / str(size), recipe)
        results.append((read_index(bank)["losses"], read_residual(bank)))
    for losses, rotation in results[:2]:
        assert losses == pytest.approx(results[2][0], rel=1e-9)
        torch.testing.assert_close(rotation, results[2][1], rtol=0, atol=1e-8)


def test_pieces_of_logits_change_nothing_but_rounding(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "Skeleton", lambda model, *_: Skeleton(model, torch.float64))
    banks = []
    for tokens in (7, 256):
        monkeypatch.setattr(device, "ON_CPU", replace(device.ON_CPU, tokens_of_logits=tokens))
        banks.append(calibrate(workspace, tmp_path / str(tokens), few(OSTQUANT, steps=2)))
    assert read_index(banks[0])["losses"] == pytest.approx(read_index(banks[1])["losses"], rel=1e-9)
    torch.testing.assert_close(*map(read_residual, banks), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", TRAINED)
def test_weights_in_bfloat16_take_steps(workspace, tmp_path, monkeypatch, name):
    exact = read_index(calibrate(workspace, tmp_path / "exact", few(TRAINED[name])))
    monkeypatch.setattr(subject, "Skeleton", lambda model, *_: Skeleton(model, torch.bfloat16))
    bank = calibrate(workspace, tmp_path / "reduced", few(TRAINED[name]))
    losses = [*read_index(bank)["losses"], read_index(bank)["loss"]]
    assert len(losses) == 4 and all(map(math.isfinite, losses))
    assert losses[0] == pytest.approx(exact["losses"][0], rel=0.05 if name == "spinquant" else 0.5)
    assert read_residual(bank).dtype == torch.float32 and orthogonality_error(read_residual(bank)) < 1e-5
    for s in range(4):
        assert {t.dtype for transform in read_entry(bank, s).transforms.values() for t in transform.parameters()} <= {
            torch.float32
        }


def test_the_loss_is_the_mean_over_the_tokens_that_are_predicted(workspace, tmp_path):
    # At 16 bits it is the full-precision model's own: for cross-entropy transformers', for the divergence zero.
    tokens = torch.from_numpy(workspace.tokens).long()
    expected = transformers_model(workspace.model)(tokens, labels=tokens).loss.item()
    recipe = few(SPINQUANT, steps=1, windows_per_step=4)
    index = read_index(calibrate(workspace, tmp_path / "spinquant", recipe, setting=FULL_PRECISION))
    # The products of calibration are reduced ones where the processor has them.
    assert index["losses"][0] == pytest.approx(expected, rel=1e-3)
    assert index["start_loss"] == pytest.approx(expected, rel=1e-3)
    recipe = few(OSTQUANT, steps=1, windows_per_step=4)
    index = read_index(calibrate(workspace, tmp_path / "ostquant", recipe, setting=FULL_PRECISION))
    assert abs(index["losses"][0]) < 1e-4
    assert read_index(calibrate(workspace, tmp_path / "quantized", recipe))["losses"][0] > 1e-3


@pytest.mark.parametrize("steps", [0, 2])
def test_rows_are_clipped_by_their_squared_error(workspace, tmp_path, monkeypatch, steps):
    monkeypatch.setattr(precision, "_has_fast_bfloat16", lambda: False)
    bank = calibrate(workspace, tmp_path / "bank", few(OSTQUANT, steps=steps))
    skeleton = Skeleton(workspace.model, rotation=read_residual(bank))
    for s in (1, 3):
        entry, mlp = read_entry(bank, s), skeleton.block(s // 2).mlp
        with torch.no_grad():
            folded = {
                "gate_proj": entry.transforms["gate_up"].fold(mlp.gate_proj.weight),
                "down_proj": entry.transforms["down"].fold(mlp.down_proj.weight),
            }
        for name, weight in folded.items():
            expected = search_row_clip(weight, None, Quantizer(4))
            # Rounding may tip the balance between two factors in a row or two.
            assert torch.isclose(entry.clips[f"weight.{name}"], expected, atol=2e-4).float().mean() > 0.9
            assert len(expected.unique()) > 2
        assert not entry.signed and entry.asymmetric
    unclipped = calibrate(workspace, tmp_path / "unclipped", few(OSTQUANT, steps=steps, weight_clip=False))
    assert all(
        clip.min() > 0.999 for name, clip in read_entry(unclipped, 1).clips.items() if name.startswith("weight.")
    )


def test_a_loss_that_is_nan_is_an_error_and_no_bank(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(end_to_end, "cross_entropy", lambda logits, targets: logits.sum() * torch.nan)
    with pytest.raises(ValueError, match="the loss is nan before any step"):
        calibrate(workspace, tmp_path, few(SPINQUANT))
    assert not (tmp_path / "index.json").exists()


@pytest.mark.parametrize("recipe", [QUAROT, few(SPINQUANT), few(OSTQUANT)], ids=["quarot", "spinquant", "ostquant"])
def test_a_family_whose_stream_cannot_be_rotated_is_refused_by_name(tmp_path, recipe):
    gemma = Workspace("gemma3_text", tmp_path)
    with pytest.raises(ValueError, match="cannot fold: post_attention_layernorm of this family"):
        calibrate(gemma, tmp_path / "bank", recipe)
    assert not (tmp_path / "bank" / "index.json").exists()


def test_steps_that_diverge_at_the_very_end_are_an_error(workspace, tmp_path):
    # No step comes after the last one to see what it did.
    with pytest.raises(ValueError, match="loss"):
        calibrate(workspace, tmp_path, few(OSTQUANT, steps=1, trained=["scaling"], scaling_rate=1e4))
    assert not (tmp_path / "index.json").exists()


def test_more_windows_a_step_than_there_are_are_refused(workspace, tmp_path):
    with pytest.raises(ValueError, match="windows_per_step is 5, but the states have 4"):
        calibrate(workspace, tmp_path, EndToEndRecipe(steps=1, windows_per_step=5))


def test_steps_that_train_nothing_are_refused():
    with pytest.raises(ValueError, match="set steps: 0"):
        EndToEndRecipe(trained=[], steps=2)
