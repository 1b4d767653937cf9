import logging

import pytest
import torch

from altq.experiment.kinds import KINDS
from altq.transforms.affine import Affine
from altq.transforms.balance import Balance, balance_scaling
from altq.transforms.hadamard import Hadamard, _warn_of_stand_in, hadamard_factor, randomized_hadamard
from altq.transforms.hadamard_matrix import orthogonal_hadamard
from altq.transforms.identity import Identity
from altq.transforms.rotation import Rotation, cayley_image, random_orthogonal
from altq.transforms.scaling import Scaled, Scaling
from altq.transforms.start import (
    STARTS,
    run_sizes,
    spreading_factor,
    start_heads,
    start_mixing,
    start_transform,
)

CLASSES = {"hadamard": Hadamard, "rotation": Rotation, "affine": Affine, "balance": Balance}


def moments(*shape, seed=0):
    *heads, size = shape
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(*heads, 3 * size, size, generator=generator) * torch.randn(size, generator=generator).exp()
    return rows.mT @ rows


def start(kind, size=12, *, seed=0, moment_seeds=(1, 2), scale="balance", **options):
    """A start from random moments; scale: None, one given, or the closed form."""
    options = {"start": "balance", "structure": "kronecker"} | options
    pair = [moments(size, seed=s) for s in moment_seeds]
    scale = balance_scaling(*pair) if isinstance(scale, str) else scale
    return start_transform(kind, *pair, scale, generator=torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("size", [12, 13, 60])
def test_every_start_is_a_valid_float32_transform_of_its_class(kind, name, size):
    for scale in ("balance", None):
        transform = start(kind, size, start=name, scale=scale)
        assert transform.check() == (True, "ok") and transform.size == size
        assert all(tensor.dtype == torch.float32 for tensor in transform.state_dict().values())
        if kind in CLASSES:
            assert isinstance(transform, Scaled) == (scale is not None)
            assert type(transform if scale is None else transform.online) is CLASSES[kind]
        else:
            assert type(transform) is {"identity": Identity, "scaling": Scaling}[kind]


@pytest.mark.parametrize("kind", ["scaling", *CLASSES])
def test_the_scale_that_is_given_stands_first(kind):
    scale = torch.linspace(0.5, 2, 12, dtype=torch.float64)
    transform = start(kind, scale=scale)
    found = transform.scale if kind == "scaling" else transform.scaling.scale
    torch.testing.assert_close(found, scale.float())


def test_the_closed_form_behind_a_scale_is_that_of_the_scaled_moments():
    scale = torch.linspace(0.5, 2, 12, dtype=torch.float64)
    outer = torch.outer(scale, scale)
    pair = moments(12, seed=1).double() * outer, moments(12, seed=2).double() / outer
    options = {"start": "balance", "structure": "kronecker"}
    for kind in ("affine", "balance"):
        alone = start_transform(kind, *pair, None, generator=torch.Generator().manual_seed(0), **options)
        found = start(kind, scale=scale).online
        torch.testing.assert_close(found.matrix(), alone.matrix(), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(found.matrix(), start(kind, scale=None).matrix(), rtol=1e-2, atol=1e-3)


def test_scaling_without_a_scale_is_ones():
    assert torch.equal(start("scaling", scale=None).scale, torch.ones(12))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STARTS)
def test_the_same_seed_gives_the_same_bits(kind, name):
    first, again = (start(kind, 60, start=name).state_dict() for _ in range(2))
    assert first.keys() == again.keys() and all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize("name", ["random", "cayley", "hadamard"])
@pytest.mark.parametrize("kind", ["rotation", "affine"])
def test_a_start_that_is_not_closed_form_knows_only_the_seed(name, kind):
    # 13 = 1 x 13 has no Hadamard matrix: its stand-in is random, too.
    first = start(kind, 13, start=name, scale=torch.ones(13))
    other_moments = start(kind, 13, start=name, scale=torch.ones(13), moment_seeds=(3, 4))
    assert torch.equal(first.online.right, other_moments.online.right)
    assert not torch.equal(first.online.right, start(kind, 13, start=name, seed=1).online.right)


def test_spreading_factors_are_what_the_names_say():
    def generator():
        return torch.Generator().manual_seed(5)

    assert torch.equal(spreading_factor("random", 12, generator()), random_orthogonal(12, generator()))
    drawing = generator()
    u, v = (cayley_image(random_orthogonal(12, drawing)) for _ in range(2))
    cayley = spreading_factor("cayley", 12, generator())
    torch.testing.assert_close(cayley, u @ v.T, rtol=0, atol=1e-14)
    torch.testing.assert_close(cayley @ cayley.T, torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-13)
    for name in ("hadamard", "balance"):
        assert torch.equal(spreading_factor(name, 12, generator()), orthogonal_hadamard(12))


def test_a_full_rotation_is_one_matrix():
    rotation = start("rotation", structure="full", scale=None)
    assert rotation.left.tolist() == [[1.0]] and rotation.right.shape == (12, 12)
    affine = start("affine", structure="full", scale=None)
    assert affine.left.shape == (3, 3) and affine.right.shape == (4, 4)


@pytest.mark.parametrize(
    ("kind", "better_than"), [("scaling", "identity"), ("affine", "scaling"), ("balance", "scaling")]
)
def test_closed_forms_lower_the_energy(kind, better_than):
    moment_x, moment_w = moments(36, seed=1).double(), moments(36, seed=2).double()

    def energy(kind):
        with torch.no_grad():
            matrix, inverse = (m.double() for m in (start(kind, 36).matrix(), start(kind, 36).inverse()))
        return (matrix.T @ moment_x @ matrix).trace() * (inverse @ moment_w @ inverse.T).trace()

    assert energy(kind) < energy(better_than)


def test_energy_is_spread_evenly_behind_a_hadamard_factor():
    # 16 = 4 x 4: both factors are Hadamard, and the diagonal of L^T Lambda L is constant over each axis.
    transform = start("affine", 16)
    with torch.no_grad():
        matrix = transform.matrix().double()
    seen = (matrix.T @ moments(16, seed=1).double() @ matrix).diagonal()
    unspread = start("scaling", 16).matrix().detach().double()
    before = (unspread.T @ moments(16, seed=1).double() @ unspread).diagonal()
    assert seen.max() / seen.min() < 0.5 * before.max() / before.min()


@pytest.mark.parametrize(
    ("size", "runs"),
    [
        (576, (8, 72)), (1536, (12, 128)), (64, (1, 64)), (36, (1, 36)), (60, (1, 60)), (44, (1, 44)), (10, (1, 10)),
        (13, (1, 13)),
    ],
)  # fmt: skip
def test_runs_are_the_longest_with_hadamard_matrices(size, runs):
    assert run_sizes(size) == runs


def test_a_size_without_a_hadamard_matrix_gets_one_of_a_divisor_times_a_random_one_and_a_warning(caplog):
    _warn_of_stand_in.cache_clear()  # it warns once of each size
    with caplog.at_level(logging.WARNING, logger="altq.transforms.hadamard"):
        factor = hadamard_factor(6, torch.Generator().manual_seed(0))
        hadamard_factor(6, torch.Generator().manual_seed(1))
    rest = random_orthogonal(3, torch.Generator().manual_seed(0))
    assert torch.equal(factor, torch.kron(orthogonal_hadamard(2), rest))
    torch.testing.assert_close(factor @ factor.T, torch.eye(6, dtype=torch.float64))
    [record] = caplog.records
    assert "no Hadamard matrix of order 6" in record.getMessage()
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="altq.transforms.hadamard"):
        factor = hadamard_factor(12, torch.Generator().manual_seed(0))
    torch.testing.assert_close(factor.abs(), torch.full((12, 12), 12**-0.5, dtype=torch.float64))
    assert not caplog.text


@pytest.mark.parametrize("size", [26, 36])
def test_a_randomized_hadamard_matrix_is_orthogonal_of_any_size(size):
    matrix = randomized_hadamard(size, torch.Generator().manual_seed(0))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-13)
    assert not torch.equal(matrix, randomized_hadamard(size, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("name", STARTS)
def test_heads_and_mixing_start_valid(name):
    generator = torch.Generator().manual_seed(0)
    heads = start_heads(moments(3, 6, seed=1), moments(3, 6, seed=2), start=name, generator=generator)
    assert heads.check()[0] and heads.factors.shape == (3, 6, 6) and heads.factors.dtype == torch.float32
    assert not torch.equal(heads.factors[0], heads.factors[1])
    mixing = start_mixing(moments(30, seed=1), moments(30, seed=2), 5, start=name, generator=generator)
    assert mixing.check()[0] and mixing.mixing.shape == (5, 5) and mixing.size == 30
