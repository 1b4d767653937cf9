import geoopt
import pytest
import torch

from altq.transforms.heads import HeadAffine, HeadMixing, HeadRotation
from altq.transforms.rotation import orthogonality_error, random_orthogonal
from altq.transforms.storage import restore, store


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head_rotation(heads, head_dim, *, num_rotations, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.stack([random_orthogonal(head_dim, generator) for _ in range(num_rotations)])
    return HeadRotation(rotation, normal(heads, head_dim, seed=seed + 1).exp())


MAKERS = {
    "affine": lambda heads, head_dim: HeadAffine(normal(heads, head_dim, head_dim)),
    "rotation": lambda heads, head_dim: head_rotation(heads, head_dim, num_rotations=heads),
    "shared": lambda heads, head_dim: head_rotation(heads, head_dim, num_rotations=1),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize(("heads", "group", "head_dim"), [(1, 1, 5), (2, 3, 4), (3, 1, 6), (1, 7, 2)])
def test_scores_of_queries_and_keys_stay(heads, group, head_dim, make):
    transform = make(heads, head_dim)
    queries, keys = normal(2, heads * group, 9, head_dim, seed=1), normal(2, heads, 9, head_dim, seed=2)
    with torch.no_grad():
        new_queries, new_keys = transform.apply_to_queries(queries), transform.apply_to_keys(keys)
    assert not torch.allclose(new_keys, keys)

    def scores(queries, keys):
        return queries @ keys.repeat_interleave(group, dim=1).mT  # query heads g * group ... read key head g

    torch.testing.assert_close(scores(new_queries, new_keys), scores(queries, keys), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize(("heads", "group", "head_dim"), [(2, 3, 4), (3, 1, 6), (1, 2, 3)])
def test_grouped_is_laid_out_by_query_head(heads, group, head_dim, make):
    transform = make(heads, head_dim)
    factors = transform.factors.detach()
    matrix = torch.block_diag(*(factors[head // group] for head in range(heads * group)))
    x, weight = normal(5, len(matrix), seed=1), normal(4, len(matrix), seed=2)
    with torch.no_grad():
        applied, folded = transform.apply_grouped(x), transform.fold_grouped(weight)
    torch.testing.assert_close(applied, x @ matrix)
    torch.testing.assert_close(applied @ folded.T, x @ weight.T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_applied_to_channels_and_to_heads_alike(make):
    transform = make(2, 3)
    keys = normal(1, 2, 5, 3, seed=1)  # [batch, heads, tokens, head_dim]
    with torch.no_grad():
        by_head = transform.apply_to_keys(keys).transpose(1, 2).flatten(2)
        torch.testing.assert_close(transform.apply_to(keys.transpose(1, 2).flatten(2)), by_head)


def test_mixing_leaves_the_channels_within_a_head():
    mixing = HeadMixing(torch.tensor([[0.0, 2.0], [1.0, 0.0]]), 6)
    x = torch.arange(6.0)  # heads (0, 1, 2) and (3, 4, 5)
    assert mixing.apply_to(x).tolist() == [3, 4, 5, 0, 2, 4]


@pytest.mark.parametrize("num_rotations", [1, 3])
def test_factors_of_a_head_rotation_are_its_rotation_then_its_scales(num_rotations):
    transform = head_rotation(3, 4, num_rotations=num_rotations)
    assert (transform.heads, transform.head_dim, transform.size) == (3, 4, 12)
    factors, dual = transform.factors.detach(), transform.dual_factors.detach()
    assert factors.shape == dual.shape == (3, 4, 4)
    for head in range(3):
        rotation = transform.rotation[head if num_rotations == 3 else 0].detach().as_subclass(torch.Tensor)
        expected = rotation @ torch.diag(transform.log_scale[head].detach().exp())
        torch.testing.assert_close(factors[head].as_subclass(torch.Tensor), expected, rtol=1e-13, atol=1e-14)
        inverse = torch.linalg.inv(expected)
        torch.testing.assert_close(dual[head].as_subclass(torch.Tensor), inverse.T, rtol=1e-11, atol=1e-12)


def test_scales_of_a_head_rotation_start_at_what_is_given():
    scale = normal(2, 5).exp()
    transform = HeadRotation(torch.eye(5, dtype=torch.float64)[None], scale)
    torch.testing.assert_close(transform.factors.diagonal(dim1=1, dim2=2).as_subclass(torch.Tensor), scale)
    assert orthogonality_error(transform.rotation) == 0


def test_only_the_rotation_of_a_head_rotation_is_on_a_manifold():
    transform = head_rotation(3, 4, num_rotations=1)
    types = {name: type(parameter) for name, parameter in transform.named_parameters()}
    assert types == {"rotation": geoopt.ManifoldParameter, "log_scale": torch.nn.Parameter}


@pytest.mark.parametrize("num_rotations", [1, 3])
@pytest.mark.parametrize(
    "verb", ["apply_to", "fold", "apply_grouped", "fold_grouped", "apply_to_keys", "apply_to_queries"]
)
def test_gradients_reach_rotation_and_scales_of_every_head(num_rotations, verb):
    transform = head_rotation(3, 4, num_rotations=num_rotations)
    shape = {"apply_to": (5, 12), "fold": (5, 12), "apply_to_keys": (1, 3, 5, 4)}.get(verb, (5, 24))
    shape = (1, 6, 5, 4) if verb == "apply_to_queries" else shape
    x, other = normal(*shape, seed=2), normal(*shape, seed=3)
    (getattr(transform, verb)(x) * other).sum().backward()
    for parameter in (transform.rotation, transform.log_scale):
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()
        assert (parameter.grad.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("num_rotations", [1, 3])
def test_riemannian_steps_move_a_head_rotation_along_its_manifold(num_rotations):
    transform = head_rotation(3, 4, num_rotations=num_rotations)
    before = transform.rotation.detach().clone()
    target, x = normal(5, 12, seed=4), normal(5, 12, seed=5)
    optimiser = geoopt.optim.RiemannianAdam(transform.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = (transform.apply_to(x) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert (transform.rotation - before).abs().max() > 0.01
    assert orthogonality_error(transform.rotation) < 1e-10


@pytest.mark.parametrize("num_rotations", [1, 3])
def test_a_head_rotation_as_an_affine_one_does_the_same_also_when_stored(num_rotations):
    transform = head_rotation(3, 4, num_rotations=num_rotations)
    affine = transform.as_affine()
    assert type(affine) is HeadAffine
    assert affine.factors.data_ptr() != transform.rotation.data_ptr()
    x = normal(5, 12, seed=2)
    for again in (affine, restore(*store(affine))):
        with torch.no_grad():
            torch.testing.assert_close(again.apply_to(x), transform.apply_to(x), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(again.fold(x), transform.fold(x), rtol=1e-10, atol=1e-10)
