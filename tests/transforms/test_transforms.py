"""What holds for every transformation: one property test over all of them, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from altq.transforms.affine import Affine
from altq.transforms.balance import Balance
from altq.transforms.hadamard import Hadamard
from altq.transforms.heads import HeadAffine, HeadMixing, HeadRotation
from altq.transforms.identity import Identity
from altq.transforms.kronecker import factor_sizes
from altq.transforms.rotation import Rotation, random_orthogonal
from altq.transforms.scaling import Scaled, Scaling
from altq.transforms.start import run_sizes
from altq.transforms.storage import restore, store

SIZES = st.sampled_from([1, 2, 3, 6, 7, 12, 13, 16, 29, 36, 60])
SEEDS = st.integers(0, 2**31)
NAN = float("nan")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def invertible(*shape, seed):
    """Matrices with a condition number of at most 2."""
    *_, size = shape
    u, _, vh = torch.linalg.svd(normal(*shape, seed=seed))
    return u * torch.linspace(0.7, 1.4, size, dtype=torch.float64) @ vh


def scales(size, seed):
    return normal(size, seed=seed).exp()


def head_layout(size):
    heads, head_dim = factor_sizes(size)
    return heads, head_dim


def head_rotation(size, seed, num_rotations):
    heads, head_dim = head_layout(size)
    generator = torch.Generator().manual_seed(seed)
    rotations = torch.stack([random_orthogonal(head_dim, generator) for _ in range(num_rotations)])
    return HeadRotation(rotations, scales(size, seed + 1).view(heads, head_dim))


MAKERS = {
    "identity": lambda size, seed: Identity(size),
    "scaling": lambda size, seed: Scaling(scales(size, seed)),
    "hadamard": lambda size, seed: Hadamard.of_size(size, torch.Generator().manual_seed(seed)),
    "rotation": lambda size, seed: Rotation(
        *(random_orthogonal(d, torch.Generator().manual_seed(seed)) for d in factor_sizes(size))
    ),
    "rotation_full": lambda size, seed: Rotation(
        torch.ones(1, 1, dtype=torch.float64), random_orthogonal(size, torch.Generator().manual_seed(seed))
    ),
    "affine": lambda size, seed: Affine(*(invertible(d, d, seed=seed + d) for d in factor_sizes(size))),
    "balance": lambda size, seed: Balance(
        invertible(*run_sizes(size), run_sizes(size)[1], seed=seed),
        random_orthogonal(run_sizes(size)[0], torch.Generator().manual_seed(seed)),
    ),
    "head_affine": lambda size, seed: HeadAffine(
        invertible(head_layout(size)[0], head_layout(size)[1], head_layout(size)[1], seed=seed)
    ),
    "head_rotation": lambda size, seed: head_rotation(size, seed, head_layout(size)[0]),
    "head_rotation_shared": lambda size, seed: head_rotation(size, seed, 1),
    "head_mixing": lambda size, seed: HeadMixing(invertible(*2 * head_layout(size)[:1], seed=seed), size),
    "scaled_affine": lambda size, seed: Scaled(Scaling(scales(size, seed)), MAKERS["affine"](size, seed + 1)),
    "scaled_rotation": lambda size, seed: Scaled(Scaling(scales(size, seed)), MAKERS["rotation"](size, seed + 1)),
}


def assert_close(found, expected):
    assert torch.allclose(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=20, deadline=None)
@given(size=SIZES, seed=SEEDS)
def test_the_verbs_of_every_transform_agree(name, size, seed):
    transform = MAKERS[name](size, seed).double()
    if name == "identity":  # it has no tensor to take its type from
        matrix = inverse = torch.eye(size, dtype=torch.float64)
    else:
        with torch.no_grad():
            matrix, inverse = transform.matrix(), transform.inverse()
    assert transform.size == size and matrix.shape == (size, size) and matrix.dtype == torch.float64
    eye = torch.eye(size, dtype=torch.float64)
    assert_close(matrix @ inverse, eye)
    assert_close(inverse, torch.linalg.inv(matrix))
    x, weight = normal(2, 3, size, seed=seed), normal(5, size, seed=seed + 1)
    with torch.no_grad():
        applied, folded = transform.apply_to(x), transform.fold(weight)
    assert applied.shape == x.shape and folded.shape == weight.shape
    assert_close(applied, x @ matrix)
    assert_close(folded, weight @ inverse.T)
    assert_close(applied @ folded.T, x @ weight.T)
    assert transform.check() == (True, "ok")
    transform.assert_valid()


# A head rotation is stored as an affine transform (tests/transforms/test_heads.py).
@pytest.mark.parametrize("name", [name for name in MAKERS if not name.startswith("head_rotation")])
@settings(max_examples=5, deadline=None)
@given(size=SIZES, seed=SEEDS)
def test_store_and_restore_give_the_same_transform(name, size, seed):
    transform = MAKERS[name](size, seed)
    description, tensors = store(transform)
    again = restore(description, tensors)
    assert type(again) is type(transform)
    assert not any(tensor.requires_grad for tensor in tensors.values())
    expected = transform.state_dict()
    assert again.state_dict().keys() == expected.keys()
    for key, tensor in again.state_dict().items():
        # A scaling is stored as itself and kept as its logarithm.
        torch.testing.assert_close(tensor, expected[key], rtol=0, atol=1e-15 if "log_scale" in key else 0)
    assert {k: type(p) for k, p in again.named_parameters()} == {k: type(p) for k, p in transform.named_parameters()}
    assert store(again)[0] == description


def test_the_description_is_plain_json():
    import json

    for make in MAKERS.values():
        description, _ = store(make(12, 0))
        assert json.loads(json.dumps(description)) == description


@pytest.mark.parametrize(
    "name",
    ["rotation", "rotation_full", "affine", "balance", "head_affine", "head_mixing", "hadamard", "head_rotation"],
)
def test_check_fails_on_nan(name):
    transform = MAKERS[name](12, 0)
    next(iter(transform.state_dict().values())).view(-1)[-1] = NAN  # state_dict shares memory
    ok, reason = transform.check()
    assert not ok
    assert f"{type(transform).__name__}(12)" in reason
    with pytest.raises(ValueError, match=r"exceeds|no inverse"):
        transform.assert_valid()


def test_check_fails_on_a_scaling_that_overflows():
    for value in (NAN, float("inf"), 1000.0):
        scaling = MAKERS["scaling"](5, 0)
        with torch.no_grad():
            scaling.log_scale[2] = value
        assert not scaling.check()[0]


@pytest.mark.parametrize("rows", ["zeros", "equal", "nearly equal"])
def test_check_fails_on_a_singular_factor(rows):
    for name in ("affine", "head_affine", "head_mixing", "balance"):
        transform = MAKERS[name](36, 0).float()
        factor = max(transform.state_dict().values(), key=lambda tensor: tensor.numel())
        factor[..., 0, :] = 0 if rows == "zeros" else factor[..., 1, :] * (1 + 1e-7 if rows == "nearly equal" else 1)
        ok, reason = transform.check()
        assert not ok and f"{type(transform).__name__}(36)" in reason, name


def test_check_fails_on_a_rotation_that_left_its_manifold():
    rotation = MAKERS["rotation"](36, 0)
    with torch.no_grad():
        rotation.left.mul_(1.001)
    ok, reason = rotation.check()
    assert not ok and "exceeds" in reason


@pytest.mark.parametrize("name", ["head_rotation", "head_rotation_shared"])
def test_check_fails_on_a_head_rotation_that_left_its_manifold_or_overflows(name):
    transform = MAKERS[name](36, 0)
    with torch.no_grad():
        transform.rotation[-1].mul_(1.001)
    ok, reason = transform.check()
    assert not ok and "exceeds" in reason
    for value in (NAN, float("inf"), 1000.0):
        transform = MAKERS[name](36, 0)
        with torch.no_grad():
            transform.log_scale[-1, 2] = value
        assert not transform.check()[0]


def test_scaled_is_the_product_in_this_order():
    scaled = MAKERS["scaled_affine"](12, 3)
    with torch.no_grad():
        assert_close(scaled.matrix(), torch.diag(scaled.scaling.scale) @ scaled.online.matrix())
        assert not torch.allclose(scaled.matrix(), scaled.online.matrix() @ torch.diag(scaled.scaling.scale))


def test_scaled_refuses_sizes_that_differ():
    with pytest.raises(ValueError, match="scaling of 3 channels cannot stand before one of 4"):
        Scaled(Scaling(torch.ones(3)), Identity(4))


@pytest.mark.parametrize(
    "name",
    [
        "scaling", "rotation", "affine", "head_affine", "head_rotation", "head_rotation_shared", "head_mixing",
        "scaled_affine",
    ],
)  # fmt: skip
def test_gradients_of_apply_and_fold_are_right(name):
    transform = MAKERS[name](6, 1)
    parameters = dict(transform.named_parameters())
    x, weight = normal(3, 6, seed=2), normal(4, 6, seed=3)

    def products(*values):
        changed = dict(zip(parameters, values, strict=True))
        changed = {f"transform.{name}": value for name, value in changed.items()}
        return tuple(
            torch.func.functional_call(Verb(transform, verb), changed, argument)
            for verb, argument in (("apply_to", x), ("fold", weight))
        )

    values = tuple(p.detach().as_subclass(torch.Tensor).clone().requires_grad_() for p in parameters.values())
    assert torch.autograd.gradcheck(products, values)


class Verb(torch.nn.Module):
    def __init__(self, transform, verb):
        super().__init__()
        self.transform, self.verb = transform, verb

    def forward(self, argument):
        return getattr(self.transform, self.verb)(argument)


def test_a_constant_transform_has_no_parameters():
    for name in ("identity", "hadamard", "balance"):
        assert not list(MAKERS[name](12, 0).parameters())
