"""The scale of symmetric codes has one definition, and every form of it gives the same bits."""

import pytest
import torch

from altq.quantizers import uniform
from kernels.cpu import Activations, QuantizedLinear
from kernels.cpu.library import TORCH
from kernels.cpu.variant import supported_variants
from kernels.reference import kronecker as reference
from kernels.reference.scale import largest_code, signed_peak, symmetric_scale
from kernels.triton import kronecker as triton

CLIP = torch.tensor([0.83])


@pytest.fixture(params=[2, 3, 4, 8])
def bits(request):
    return request.param


@pytest.fixture
def x():
    """Rows of many magnitudes in float16, zeros, ties of both signs, one entry alone, and one sign alone."""
    x = torch.randn(24, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 24).unsqueeze(1)
    x[0], x[1, 1:], x[2], x[3] = 0, 0, x[2].abs(), -x[3].abs()
    x[4, 7], x[4, 9], x[5, 9], x[5, 7] = 50, -50, 50, -50
    return x.half().float()


def test_a_row_by_hand():
    x = torch.tensor([[1.0, -3.0], [3.0, -1.0], [2.0, -2.0], [0.0, 0.0]])
    assert signed_peak(x).tolist() == [[-3], [3], [-2], [0]]
    assert symmetric_scale(signed_peak(x), 0.5, signed=True).tolist() == [[1.5], [-1.5], [1], [1]]
    assert symmetric_scale(signed_peak(x), 0.5, signed=False).tolist() == [[1.5], [1.5], [1], [1]]


@pytest.mark.parametrize("signed", [True, False])
def test_every_form_gives_the_same_bits(x, bits, signed, device):
    scale = symmetric_scale(signed_peak(x), CLIP / largest_code(bits), signed=signed)
    assert (scale < 0).any() == signed and scale[0] == 1
    forms = {
        "altq": uniform.symmetric_scale(x, bits, CLIP, signed=signed),
        "reference": reference.token_scales(x, CLIP, bits, signed=signed).T,
        "Triton": triton.transform_quantize(
            x.half().to(device), None, None, CLIP.to(device), bits=bits, width=8, signed=signed
        )[1].T.cpu(),
    }
    weight = torch.zeros(1, 64, dtype=torch.int8)
    for variant in (*(variant.name for variant in supported_variants()), TORCH):
        layer = QuantizedLinear(
            weight, torch.ones(1), weight_bits=4, activations=Activations(bits, CLIP, signed), variant=variant
        )
        forms[variant] = layer.quantize(x)[1]
    for name, other in forms.items():
        assert torch.equal(other, scale), name


def test_a_tie_takes_the_negative_entry(x, bits):
    scale = symmetric_scale(signed_peak(x), CLIP / largest_code(bits), signed=True)
    assert (scale[4:6] > 0).all() and scale[4] == scale[5]
