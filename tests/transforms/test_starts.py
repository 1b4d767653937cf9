import logging

import pytest
import torch

from altq.transforms.affine import Affine
from altq.transforms.balance import Balance
from altq.transforms.hadamard import Hadamard, hadamard_factor
from altq.transforms.identity import Identity
from altq.transforms.rotation import Rotation
from altq.transforms.scaling import Scaled, Scaling
from altq.transforms.start import KINDS, STARTS, run_sizes, start_heads, start_mixing, start_transform

CLASSES = {"hadamard": Hadamard, "rotation": Rotation, "affine": Affine, "balance": Balance}


def moments(*shape, seed=0):
    *heads, size = shape
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(*heads, 3 * size, size, generator=generator) * torch.randn(size, generator=generator).exp()
    return rows.mT @ rows


def start(kind, size=12, *, seed=0, **options):
    options = {"start": "balance", "scaling": True, "structure": "kronecker"} | options
    pair = moments(size, seed=1), moments(size, seed=2)
    return start_transform(kind, *pair, generator=torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("size", [12, 13, 60])
def test_every_start_is_a_valid_float32_transform_of_its_class(kind, name, size):
    for scaling in (True, False):
        transform = start(kind, size, start=name, scaling=scaling)
        assert transform.check() == (True, "ok") and transform.size == size
        assert all(tensor.dtype == torch.float32 for tensor in transform.state_dict().values())
        if kind in CLASSES:
            assert isinstance(transform, Scaled) == scaling
            assert type(transform.online if scaling else transform) is CLASSES[kind]
        else:
            assert type(transform) is {"identity": Identity, "scaling": Scaling}[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STARTS)
def test_the_same_seed_gives_the_same_bits(kind, name):
    first, again = (start(kind, 60, start=name).state_dict() for _ in range(2))
    assert first.keys() == again.keys() and all(torch.equal(first[key], again[key]) for key in first)


def test_a_random_start_knows_only_the_seed():
    rotation = start("rotation", start="random")
    assert torch.equal(rotation.scaling.scale, torch.ones(12))
    assert not torch.equal(rotation.online.right, start("rotation", start="random", seed=1).online.right)


def test_a_full_rotation_is_one_matrix():
    rotation = start("rotation", structure="full", scaling=False)
    assert rotation.left.tolist() == [[1.0]] and rotation.right.shape == (12, 12)
    affine = start("affine", structure="full", scaling=False)
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


def test_a_size_without_a_hadamard_matrix_gets_a_random_orthogonal_factor_and_a_log_line(caplog):
    with caplog.at_level(logging.INFO, logger="altq.transforms.hadamard"):
        factor = hadamard_factor(6, torch.Generator().manual_seed(0))
    torch.testing.assert_close(factor @ factor.T, torch.eye(6, dtype=torch.float64))
    assert "no Hadamard matrix of order 6" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="altq.transforms.hadamard"):
        factor = hadamard_factor(12, torch.Generator().manual_seed(0))
    torch.testing.assert_close(factor.abs(), torch.full((12, 12), 12**-0.5, dtype=torch.float64))
    assert not caplog.text


@pytest.mark.parametrize("name", STARTS)
def test_heads_and_mixing_start_valid(name):
    generator = torch.Generator().manual_seed(0)
    heads = start_heads(moments(3, 6, seed=1), moments(3, 6, seed=2), start=name, generator=generator)
    assert heads.check()[0] and heads.factors.shape == (3, 6, 6) and heads.factors.dtype == torch.float32
    assert not torch.equal(heads.factors[0], heads.factors[1])
    mixing = start_mixing(moments(30, seed=1), moments(30, seed=2), 5, start=name, generator=generator)
    assert mixing.check()[0] and mixing.mixing.shape == (5, 5) and mixing.size == 30
