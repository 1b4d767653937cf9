"""The layer of packed weights on the GPU kernels: what it computes, and which layers are beyond the kernels."""

import pytest
import torch

from kernels.cpu import Activations
from kernels.cpu import QuantizedLinear as CpuLinear
from kernels.triton.quantized_linear import GrowingWorkspace, QuantizedLinear, obstacle


@pytest.fixture
def drawn(normal, device):
    """Arguments of both layers: codes, scale, factors, bias."""

    def draw(d_out, sides, *, weight_bits=4):
        d_in = sides[0] * sides[1]
        low = -(1 << weight_bits - 1)
        generator = torch.Generator().manual_seed(2)
        codes = torch.randint(low, -low, (d_out, d_in), generator=generator, dtype=torch.int8).to(device)
        left, right = (
            torch.linalg.qr(normal(d, d, seed=d, dtype=torch.float32))[0].contiguous() if d > 1 else None for d in sides
        )
        scale, bias = (
            normal(d_out, 1, seed=4, dtype=torch.float32).abs() / 50,
            normal(d_out, seed=5, dtype=torch.float32),
        )
        return codes, scale, {"weight_bits": weight_bits, "left": left, "right": right, "bias": bias}

    return draw


def cpu_layer(codes, scale, options, bits, clip, *, signed=True):
    options = {name: x.cpu() if isinstance(x, torch.Tensor) else x for name, x in options.items()}
    activations = Activations(bits, clip, signed=signed)
    return CpuLinear(codes.cpu(), scale.cpu(), activations=activations, variant="torch", **options)


# Odd numbers of rows and tokens, one token, no factor, one, both; codes of every width.
@pytest.mark.parametrize(
    ("tokens", "d_out", "sides", "weight_bits", "bits"),
    [
        (1, 70, (6, 6), 4, 4),
        (5, 33, (6, 10), 3, 3),
        (3, 64, (12, 16), 8, 4),
        (130, 20, (1, 36), 2, 8),
        (2, 9, (13, 2), 4, 2),
    ],
)
def test_it_is_the_layer_of_the_cpu(drawn, normal, device, tokens, d_out, sides, weight_bits, bits):
    codes, scale, options = drawn(d_out, sides, weight_bits=weight_bits)
    clip = torch.tensor([0.9])
    layer = QuantizedLinear(
        codes, scale, bits=bits, clip=clip, signed=True, workspace=GrowingWorkspace(device), **options
    )
    x = normal(1, tokens, codes.shape[1], seed=7, dtype=torch.float32)
    y, expected = layer(x), cpu_layer(codes, scale, options, bits, clip)(x.cpu())
    assert y.shape == (1, tokens, d_out) and y.dtype == torch.float32
    # Rounding x and the factors to float16 tips a code here and there by one step.
    error = (y.cpu() - expected).norm() / expected.norm()
    assert error < 0.05


def test_without_a_transform_float16_inputs_give_the_same_bits(drawn, normal, device):
    codes, scale, options = drawn(40, (6, 8))
    options |= {"left": None, "right": None}
    layer = QuantizedLinear(
        codes, scale, bits=4, clip=torch.ones(1), signed=False, workspace=GrowingWorkspace(device), **options
    )
    x = normal(3, codes.shape[1], seed=7).float()
    expected = cpu_layer(codes, scale, options, 4, 1.0, signed=False)(x.cpu())
    torch.testing.assert_close(layer(x).cpu(), expected, rtol=1e-6, atol=1e-6)


def test_a_token_beyond_float16_is_nan_and_spoils_no_other(drawn, normal, device):
    codes, scale, options = drawn(40, (6, 8))
    workspace = GrowingWorkspace(device)
    layer = QuantizedLinear(codes, scale, bits=4, clip=torch.ones(1), signed=True, workspace=workspace, **options)
    x = normal(3, codes.shape[1], seed=7, dtype=torch.float32)
    x[1, 5] = 1e6
    assert layer(x).isnan().all(-1).tolist() == [False, True, False]


def test_layers_share_a_workspace_as_large_as_the_widest_needs(drawn, device):
    workspace = GrowingWorkspace(device)
    sums = []
    for d_out in (64, 256, 128):
        codes, scale, options = drawn(d_out, (4, 4))
        QuantizedLinear(codes, scale, bits=4, clip=torch.ones(1), signed=True, workspace=workspace, **options)
        sums.append(len(workspace.workspace.sums))
    assert sums[0] < sums[1] == sums[2] == 128 * 256


KNOWN = {"d_in": 36, "left": torch.eye(6), "right": torch.eye(6), "weight_bits": 4, "bits": 4, "asymmetric": False}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"weight_bits": 16}, "weights of 16 bits"),
        ({"bits": 5}, "activations of 5 bits"),
        ({"asymmetric": True}, "a zero point"),
        ({"right": torch.eye(6).repeat(6, 1, 1)}, "each run"),
        ({"d_in": 29, "left": None, "right": None}, "29 input channels"),
        ({"d_in": 1 << 17, "left": None, "right": None}, "at most 65536"),
        ({"d_in": 30, "left": torch.eye(6), "right": torch.eye(5)}, "no whole bytes"),
        ({"d_in": 600 * 100, "left": torch.eye(600), "right": torch.eye(100)}, "padded product"),
    ],
)
def test_what_the_kernels_do_not_know_is_named(changes, problem):
    assert obstacle(**KNOWN) is None
    assert problem in obstacle(**KNOWN | changes)


def test_a_layer_beyond_the_kernels_is_refused(drawn, device):
    codes, scale, options = drawn(40, (6, 5))
    with pytest.raises(ValueError, match="do not know factors of 6 and 5"):
        QuantizedLinear(
            codes, scale, bits=4, clip=torch.ones(1), signed=True, workspace=GrowingWorkspace(device), **options
        )
