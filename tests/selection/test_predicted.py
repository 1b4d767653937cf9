"""The closed-form signal-to-noise ratio against its definition, and against quantizers on Gaussian data."""

import math

import pytest
import torch
from models_for_tests import Workspace, recipe

from altq.experiment.setting import Setting
from altq.quantizers.uniform import fake_quantize, symmetric_scale
from altq.selection.candidates import Candidates
from altq.selection.predicted import concentration, expected_squared_maximum, predict, predict_model
from altq.transforms.balance import balance_matrix
from altq.transforms.identity import Identity
from altq.transforms.rotation import Rotation, random_orthogonal
from altq.transforms.transform import Transform


class Matrix(Transform):
    """T as it is given."""

    def __init__(self, matrix):
        super().__init__(len(matrix))
        self.register_buffer("t", matrix)

    def apply_to(self, x):
        return x @ self.t

    def fold(self, weight):
        return weight @ torch.linalg.inv(self.t).T


def moments(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(2):
        factor = torch.randn(size, size, generator=generator, dtype=torch.float64)
        factor *= torch.logspace(0, 1, size, dtype=torch.float64)
        made.append(factor.T @ factor / size)
    return made


@pytest.mark.parametrize("variances", [[1.0], [4.0], [1.0, 1.0], [9.0, 1.0, 0.25, 0.0]])
def test_the_expected_maximum_is_that_of_drawn_gaussians(variances):
    variances = torch.tensor(variances, dtype=torch.float64)
    drawn = torch.randn(400_000, len(variances), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (drawn.square() * variances).amax(1).mean().item()
    assert expected_squared_maximum(variances).item() == pytest.approx(expected, rel=0.01)


def test_concentration_is_lower_where_one_channel_dominates():
    equal = concentration(torch.eye(64, dtype=torch.float64))
    outlier = torch.eye(64, dtype=torch.float64)
    outlier[0, 0] = 1e4
    assert concentration(outlier) < equal < 1
    # One channel alone: E x^2 / (d E x^2) = 1 / d.
    assert concentration(outlier) == pytest.approx(1 / 64, rel=0.05)


def test_a_rotation_changes_concentration_alone():
    moment_x, moment_w = moments(16)
    generator = torch.Generator().manual_seed(1)
    rotation = Rotation(random_orthogonal(4, generator), random_orthogonal(4, generator))
    setting = Setting.parse("W4A4K4V4")
    before = predict(Identity(16), moment_x=moment_x, moment_w=moment_w, setting=setting)
    after = predict(rotation, moment_x=moment_x, moment_w=moment_w, setting=setting)
    assert after.alignment == pytest.approx(before.alignment, rel=1e-9)
    assert after.concentration_x != pytest.approx(before.concentration_x, rel=1e-3)


def test_the_balanced_transform_has_the_best_alignment():
    moment_x, moment_w = moments(12)
    setting = Setting.parse("W4A4K4V4")
    best = predict(
        Matrix(balance_matrix(moment_x, moment_w, ridge=0.0)), moment_x=moment_x, moment_w=moment_w, setting=setting
    ).alignment
    for seed in range(5):
        other = torch.randn(12, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert predict(Matrix(other), moment_x=moment_x, moment_w=moment_w, setting=setting).alignment < best


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_it_predicts_the_noise_of_real_quantizers_on_gaussian_data(bits):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4096, 64, generator=generator, dtype=torch.float64) * torch.linspace(0.5, 2, 64)
    w = torch.randn(256, 64, generator=generator, dtype=torch.float64) * torch.linspace(2, 0.5, 64)

    def rounded(rows):
        return fake_quantize(rows, symmetric_scale(rows, bits, signed=True), bits)

    exact = x @ w.T
    noise = (rounded(x) @ w.T - exact).square().mean() + (x @ rounded(w).T - exact).square().mean()
    measured = 10 * math.log10((exact.square().mean() / noise).item())
    setting = Setting.parse(f"W{bits}A{bits}K4V4")
    moment_x, moment_w = x.T @ x / len(x), w.T @ w / len(w)
    predicted = predict(Identity(64), moment_x=moment_x, moment_w=moment_w, setting=setting).sqnr
    assert predicted == pytest.approx(measured, abs=0.25)


def test_each_candidate_is_predicted_at_each_sublayer(tmp_path):
    workspace = Workspace("llama_gqa", tmp_path)
    kinds = ("identity", "rotation", "affine")
    candidates = Candidates(kinds, setting=Setting.parse("W4A4K4V4"), seed=0, recipe=recipe())
    found = predict_model(workspace.subject(), candidates)
    assert len(found) == 4 and all(tuple(of_kind) == kinds for of_kind in found)
    for of_kind in found:
        assert all(math.isfinite(p.sqnr) and 0 < p.concentration_x <= 1 for p in of_kind.values())
        # The recipe's scaling stands before both, and rotations leave alignment as it is.
        assert of_kind["affine"].alignment > of_kind["rotation"].alignment * (1 - 1e-6)
    assert predict_model(workspace.subject(), candidates) == found
