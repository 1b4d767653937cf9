import math

import geoopt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

from altq.transforms.rotation import (
    Rotation,
    cayley_image,
    orthogonality_error,
    project_orthogonal,
    random_orthogonal,
    stiefel_parameter,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def error_of(matrix):
    """|M^T M - I|, in float64 whatever the type of M."""
    matrix = matrix.detach().double()
    return (matrix.T @ matrix - torch.eye(len(matrix), dtype=torch.float64)).abs().max().item()


@pytest.mark.parametrize("size", [1, 2, 7, 36])
def test_random_orthogonal_matrices_are_orthogonal_and_seeded(size):
    def draw(seed):
        return random_orthogonal(size, torch.Generator().manual_seed(seed))

    matrix = draw(0)
    assert matrix.dtype == torch.float64 and matrix.is_contiguous() and error_of(matrix) < 1e-13
    assert torch.equal(matrix, draw(0))
    if size > 1:
        assert not torch.allclose(matrix, draw(1))


def test_random_orthogonal_matrices_are_uniform():
    # Over the Haar measure every entry has mean 0 and variance 1 / n; without the signs of R, the diagonal does not.
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([random_orthogonal(4, generator) for _ in range(2000)])
    assert draws.mean(0).abs().max() < 0.06
    assert (draws.square().mean(0) - 0.25).abs().max() < 0.03


@pytest.mark.parametrize("sizes", [(3, 5), (1, 12), (6, 6)])
def test_riemannian_steps_then_projection_stay_orthogonal(sizes):
    generator = torch.Generator().manual_seed(0)
    rotation = Rotation(*(random_orthogonal(d, generator) for d in sizes)).float()
    start = rotation.matrix().detach().clone()
    target = torch.randn(8, rotation.size, generator=generator)
    x = torch.randn(8, rotation.size, generator=generator)
    optimiser = geoopt.optim.RiemannianAdam(rotation.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (rotation.apply_to(x) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    for factor in rotation.parameters():
        project_orthogonal(factor)
    assert losses[-1] < losses[0]
    assert (rotation.matrix() - start).abs().max() > 0.1
    assert error_of(rotation.left) < 1e-6 and error_of(rotation.right) < 1e-6
    assert rotation.check() == (True, "ok")


@pytest.mark.parametrize("batch", [(), (3,)])
def test_projection_gives_the_nearest_orthogonal_matrices(batch):
    generator = torch.Generator().manual_seed(1)
    exact = torch.stack([random_orthogonal(5, generator) for _ in range(3)])[: batch[0] if batch else 1]
    # Q P with P symmetric positive definite has the polar factor Q; each matrix has a P of its own.
    stretch = torch.randn(len(exact), 5, 5, generator=generator, dtype=torch.float64)
    stretch = torch.eye(5, dtype=torch.float64) + 0.05 * (stretch + stretch.mT)
    parameter = stiefel_parameter((exact @ stretch).reshape(*batch, 5, 5))
    assert orthogonality_error(parameter) > 0.01
    project_orthogonal(parameter)
    found = parameter.detach().as_subclass(torch.Tensor)
    torch.testing.assert_close(found, exact.reshape(*batch, 5, 5), rtol=0, atol=1e-12)
    assert parameter.requires_grad and parameter.is_leaf


def test_projection_of_float32_is_as_exact_as_float32():
    parameter = stiefel_parameter((random_orthogonal(64, torch.Generator().manual_seed(0)) * 1.01).float())
    project_orthogonal(parameter)
    assert parameter.dtype == torch.float32 and orthogonality_error(parameter) < 1e-6


def test_the_orthogonality_error_is_the_worst_of_all_matrices():
    generator = torch.Generator().manual_seed(0)
    matrices = torch.stack([random_orthogonal(6, generator) for _ in range(4)])
    assert orthogonality_error(matrices) < 1e-13
    for worst in range(4):
        spoiled = matrices.clone()
        spoiled[worst] *= 1.001  # R^T R = 1.001^2 I
        assert orthogonality_error(spoiled) == pytest.approx(1.001**2 - 1, rel=1e-9)
    assert orthogonality_error(matrices[0]) < 1e-13
    assert orthogonality_error(stiefel_parameter(2 * matrices)) == pytest.approx(3, rel=1e-12)
    # A shear is seen beside the diagonal.
    shear = torch.eye(6, dtype=torch.float64)
    shear[0, 1] = 0.25
    assert orthogonality_error(shear) == pytest.approx(0.25)


def test_the_orthogonality_error_is_computed_in_float64():
    matrix = random_orthogonal(40, torch.Generator().manual_seed(0)).float()
    assert orthogonality_error(matrix) == pytest.approx(error_of(matrix), rel=1e-9)


def test_the_orthogonality_error_of_nan_is_nan():
    for entry in ((0, 0, 0), (2, 1, 3)):
        matrices = torch.eye(4).repeat(3, 1, 1)
        matrices[entry] = float("nan")
        assert math.isnan(orthogonality_error(matrices))


def test_orthogonal_matrices_become_a_parameter_that_is_contiguous():
    parameter = stiefel_parameter(normal(3, 4, 4).mT)
    assert parameter.is_contiguous() and parameter.requires_grad
    assert torch.equal(parameter.detach().as_subclass(torch.Tensor), normal(3, 4, 4).mT)


def torch_cayley(matrix):
    """What torch's parametrisation makes of a linear layer's weight."""
    linear = nn.Linear(*matrix.shape, bias=False, dtype=matrix.dtype)
    with torch.no_grad():
        linear.weight.copy_(matrix)
    return orthogonal(linear, orthogonal_map="cayley", use_trivialization=False).weight.detach()


SIZES, SEEDS = st.integers(1, 24), st.integers(0, 2**31)


@settings(max_examples=40, deadline=None)
@given(size=SIZES, seed=SEEDS, orthogonal_given=st.booleans())
def test_the_cayley_image_is_that_of_torch_s_parametrisation(size, seed, orthogonal_given):
    matrix = normal(size, size, seed=seed)
    if orthogonal_given:
        matrix = random_orthogonal(size, torch.Generator().manual_seed(seed))
    image = cayley_image(matrix)
    assert image.dtype == torch.float64 and image.is_contiguous() and image.shape == (size, size)
    torch.testing.assert_close(image, torch_cayley(matrix), rtol=0, atol=1e-11)
    assert error_of(image) < 1e-11
    assert torch.linalg.det(image).item() == pytest.approx(1)  # a rotation, never a reflection


def test_the_cayley_image_by_hand():
    # A = [[0, -2], [2, 0]]: (I - A/2)^-1 (I + A/2) = [[0, -1], [1, 0]], whatever stands on or above M's diagonal.
    matrix = torch.tensor([[7.0, 5.0], [2.0, -3.0]], dtype=torch.float64)
    expected = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(cayley_image(matrix), expected, rtol=0, atol=1e-15)


def test_the_cayley_image_of_an_orthogonal_matrix_is_another_one_nearer_to_the_identity():
    # "Random orthogonal start" with torch's parametrisation is this one.
    matrix = random_orthogonal(32, torch.Generator().manual_seed(0))
    image, eye = cayley_image(matrix), torch.eye(32, dtype=torch.float64)
    assert (image - matrix).norm() > 1
    assert 0.1 < (image - eye).norm() / (matrix - eye).norm() < 0.8


def test_the_cayley_image_keeps_float32():
    matrix = normal(9, 9).float()
    image = cayley_image(matrix)
    assert image.dtype == torch.float32 and error_of(image) < 1e-5
    torch.testing.assert_close(image, torch_cayley(matrix), rtol=0, atol=1e-5)


def test_both_factors_are_on_the_manifold():
    rotation = Rotation(torch.eye(2), torch.eye(3))
    assert [type(p) for p in rotation.parameters()] == 2 * [geoopt.ManifoldParameter]
