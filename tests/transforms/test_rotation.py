import geoopt
import pytest
import torch

from altq.transforms.rotation import Rotation, random_orthogonal


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
    rotation.project()
    assert losses[-1] < losses[0]
    assert (rotation.matrix() - start).abs().max() > 0.1
    assert error_of(rotation.left) < 1e-6 and error_of(rotation.right) < 1e-6
    assert rotation.check() == (True, "ok")


def test_projection_gives_the_nearest_orthogonal_matrix():
    generator = torch.Generator().manual_seed(1)
    exact = random_orthogonal(5, generator)
    # Q P with P symmetric positive definite has the polar factor Q.
    stretch = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    stretch = torch.eye(5, dtype=torch.float64) + 0.05 * (stretch + stretch.T)
    rotation = Rotation(torch.ones(1, 1, dtype=torch.float64), exact @ stretch)
    rotation.project()
    torch.testing.assert_close(rotation.right.detach().as_subclass(torch.Tensor), exact, rtol=0, atol=1e-12)


def test_both_factors_are_on_the_manifold():
    rotation = Rotation(torch.eye(2), torch.eye(3))
    assert [type(p) for p in rotation.parameters()] == 2 * [geoopt.ManifoldParameter]
