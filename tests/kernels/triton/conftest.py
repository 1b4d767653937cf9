import pytest
import torch

from kernels.reference import linear as reference
from kernels.reference.kronecker import transform_quantize
from kernels.triton.linear import linear


@pytest.fixture
def operands(normal, device):
    """Codes, scales, weight and its scales: tokens (a set for each output) by channels, rows by channels."""

    def draw(tokens, rows, channels, *, bits=4, weight_bits=4, outputs=1):
        clips = torch.linspace(0.7, 1.0, outputs, device=device)
        codes, scales = transform_quantize(normal(tokens, channels), None, None, clips, bits=bits)
        weight, weight_scales = transform_quantize(
            normal(rows, channels, seed=1), None, None, torch.ones(1, device=device), bits=weight_bits
        )
        return codes, scales, weight[0], weight_scales[0]

    return draw


@pytest.fixture
def assert_linear():
    """Compare a linear kernel with the reference; returns what the kernel gave.

    The product is exact and the epilogue the same float32 operations: on the CPU there is nothing to round apart.
    """

    def check(operands, *, kernel=linear, workspace=None, **options):
        y, expected = kernel(*operands, workspace=workspace, **options), reference.linear(*operands, **options)
        if y.is_cuda:
            torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-4, equal_nan=True)  # fused multiply-adds
        else:
            assert y.dtype == expected.dtype and torch.equal(y.nan_to_num(9e9), expected.nan_to_num(9e9))
        return y

    return check
