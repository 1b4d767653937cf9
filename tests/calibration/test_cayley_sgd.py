"""Cayley SGD: its formula, its manifold, its cap, and that it descends."""

import itertools

import pytest
import torch

from altq.calibration.cayley_sgd import CayleySGD
from altq.transforms.rotation import orthogonality_error, random_orthogonal


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(size, seed=0):
    return random_orthogonal(size, torch.Generator().manual_seed(seed))


def stepped(start, gradient, rate, steps=1):
    """Where steps with a constant gradient lead."""
    x = start.clone().requires_grad_()
    optimiser = CayleySGD([x], lr=rate)
    for _ in range(steps):
        x.grad = gradient.clone()
        optimiser.step()
    return x.detach()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("size", [2, 7, 12])
def test_a_step_is_the_formula_with_explicit_inverses(size, scale):
    start, gradient = orthogonal(size), scale * normal(size, size, seed=1)
    skew = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(size):
            row = sum(gradient[i, k] * start[j, k] - start[i, k] * gradient[j, k] for k in range(size))
            skew[i][j] = row.item() / 2
    skew = torch.tensor(skew, dtype=torch.float64)
    rate = min(0.3, 1 / max(sum(abs(skew[i, j].item()) for i in range(size)) for j in range(size)))
    eye = torch.eye(size, dtype=torch.float64)
    expected = torch.inverse(eye + rate / 2 * skew) @ (eye - rate / 2 * skew) @ start
    torch.testing.assert_close(stepped(start, gradient, 0.3), expected, rtol=1e-6, atol=1e-7)


def test_it_turns_a_plane_by_hand():
    # In the plane, W = [[0, -w], [w, 0]] and the step turns by -2 atan(rate w / 2).
    gradient = torch.tensor([[0.0, -0.2], [0.2, 0.0]], dtype=torch.float64)  # at X = I: W is the gradient itself
    found = stepped(torch.eye(2, dtype=torch.float64), gradient, 1.5)
    angle = -2 * torch.atan(torch.tensor(1.5 * 0.2 / 2, dtype=torch.float64))
    expected = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rate", [1e-3, 1.0, 1e6])
@pytest.mark.parametrize("shape", [(9,), (3, 6)])
def test_it_stays_orthogonal(shape, rate):
    start = torch.stack([orthogonal(shape[-1], seed) for seed in range(3)]) if len(shape) == 2 else orthogonal(*shape)
    x = start.clone().requires_grad_()
    optimiser = CayleySGD([x], lr=rate)
    for step in range(500):
        x.grad = normal(*x.shape, seed=step)
        optimiser.step()
    assert orthogonality_error(x) < 1e-11
    assert (x - start).abs().max() > 0.01


@pytest.mark.parametrize("scale", [1e3, 1e9, 1e-3])
def test_the_rate_is_at_most_one_over_the_norm_of_the_direction(scale):
    start, gradient = orthogonal(8), normal(8, 8, seed=1)
    # Beyond the cap neither the scale of the loss nor the rate matters: |a W|_1 = 1.
    capped = stepped(start, gradient, 1e9)
    assert (capped - start).abs().max() > 0.01
    torch.testing.assert_close(stepped(start, scale * gradient, 1e30), capped, rtol=0, atol=1e-4 if scale < 1 else 1e-7)
    tangent = gradient @ start.T
    skew = (tangent - tangent.T) / 2
    norm = skew.abs().sum(0).max()
    # Below it the rate is the one given.
    below, above = (stepped(start, gradient, factor / norm.item()) for factor in (0.5, 2.0))
    eye = torch.eye(8, dtype=torch.float64)
    expected = torch.linalg.solve(eye + skew / norm / 4, (eye - skew / norm / 4) @ start)
    torch.testing.assert_close(below, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(above, capped, rtol=0, atol=1e-7)


def test_a_batch_is_its_matrices_one_by_one():
    # Gradients of very different scales: each matrix has its own cap.
    starts = torch.stack([orthogonal(6, seed) for seed in range(4)])
    gradients = normal(4, 6, 6, seed=9) * torch.tensor([1e-3, 1.0, 30.0, 1e4], dtype=torch.float64)[:, None, None]
    found = stepped(starts, gradients, 0.7, steps=3)
    for i in range(4):
        expected = stepped(starts[i], gradients[i], 0.7, steps=3)
        torch.testing.assert_close(found[i], expected, rtol=0, atol=1e-13)
        assert not torch.allclose(found[i], starts[i], atol=1e-6)


@pytest.mark.parametrize("rate", [0.1, 1.5])
def test_it_descends_a_quadratic_of_orthogonal_matrices(rate):
    # |X A - B|^2 with B = Q A: the minimum is 0, at X = Q.
    a, q = normal(6, 20, seed=1), orthogonal(6, 2)
    q[0] *= q.det().sign()  # a rotation: steps from I reach no reflection
    x = torch.eye(6, dtype=torch.float64).requires_grad_()
    optimiser, losses = CayleySGD([x], lr=rate), []
    for _ in range(400):
        optimiser.zero_grad()
        loss = (x @ a - q @ a).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.01 * losses[0]
    # With a small rate it falls at every step.
    assert rate > 1 or all(later <= earlier for earlier, later in itertools.pairwise(losses))


def test_what_has_no_gradient_stays():
    x, y = orthogonal(4).requires_grad_(), orthogonal(4, 1).requires_grad_()
    optimiser = CayleySGD([x, y], lr=1.0)
    y.grad = normal(4, 4)
    optimiser.step()
    assert torch.equal(x.detach(), orthogonal(4)) and not torch.equal(y.detach(), orthogonal(4, 1))


def test_nan_is_not_hidden():
    gradient = normal(4, 4)
    gradient[1, 2] = torch.nan
    assert stepped(orthogonal(4), gradient, 1.0).isnan().any()
