import pytest
import torch

from kernels.triton.linear import linear
from kernels.triton.product import empty_workspace


# Odd sizes, one token, tiles of decoding (1 to 128 tokens) and of prefill.
@pytest.mark.parametrize(
    ("tokens", "rows", "channels"),
    [
        (1, 1, 2),
        (1, 576, 576),
        (3, 100, 96),
        (17, 65, 130),
        (33, 192, 576),
        (64, 72, 256),
        (129, 130, 200),
        (300, 40, 64),
    ],
)
def test_the_kernel_equals_the_reference(operands, assert_linear, tokens, rows, channels):
    assert_linear(operands(tokens, rows, channels))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("weight_bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_every_width_of_codes(operands, assert_linear, normal, bits, weight_bits, dtype):
    bias, residual = normal(70, seed=2, dtype=dtype), normal(19, 70, seed=3, dtype=dtype)
    drawn = operands(19, 70, 96, bits=bits, weight_bits=weight_bits)
    assert_linear(drawn, bits=bits, weight_bits=weight_bits, dtype=dtype)
    assert_linear(drawn, bits=bits, weight_bits=weight_bits, dtype=dtype, bias=bias)
    assert_linear(drawn, bits=bits, weight_bits=weight_bits, dtype=dtype, residual=residual, bias=bias)


@pytest.mark.parametrize("rows", [(128, 64), (192, 64, 64), (128, 128, 128)])
@pytest.mark.parametrize("tokens", [1, 130])
def test_several_inputs_share_a_launch(operands, assert_linear, tokens, rows):
    assert_linear(operands(tokens, sum(rows), 96, outputs=len(rows)), rows=rows)


@pytest.mark.parametrize("tokens", [1, 16, 40])
def test_programs_that_share_a_tile_leave_the_workspace_zero(operands, assert_linear, normal, device, tokens):
    drawn, workspace = operands(tokens, 130, 4100), empty_workspace(tokens, 130, device)
    bias, residual = normal(130, seed=2), normal(tokens, 130, seed=3)
    for _ in range(2):
        assert_linear(drawn, workspace=workspace, bias=bias, residual=residual)
        assert not workspace.sums.any() and not workspace.arrivals.any()
    assert_linear(drawn)


def test_the_largest_sums_fit(assert_linear, device):
    # -8 * -8 everywhere, and 16 times both codes: 2^16 channels times 2^14 is 2^30.
    codes = torch.full((1, 1, 1 << 15), 0x88, dtype=torch.uint8, device=device)
    ones = torch.ones(1, 1, device=device)
    y = assert_linear((codes, ones, codes[0], ones[0]), dtype=torch.float32)
    assert y.item() == 64 * 65536


def test_a_scale_of_nan_spoils_its_row_alone(operands, assert_linear):
    codes, scales, weight, weight_scales = operands(3, 20, 64)
    scales[0, 1] = torch.nan
    y = assert_linear((codes, scales, weight, weight_scales))
    assert y.isnan().all(-1).tolist() == y.isnan().any(-1).tolist() == [False, True, False]


def test_no_token_gives_no_row(operands):
    codes, scales, weight, weight_scales = operands(1, 20, 64)
    assert linear(codes[:, :0], scales[:, :0], weight, weight_scales).shape == (0, 20)


def test_bad_operands_are_refused(operands, normal, device):
    codes, scales, weight, weight_scales = operands(5, 70, 96)
    three = operands(5, 210, 96, outputs=3)
    for match, arguments, options in (
        ("activations of 3 bits cannot be multiplied", (codes, scales, weight, weight_scales), {"bits": 3}),
        ("weights of 2 bits cannot be multiplied", (codes, scales, weight, weight_scales), {"weight_bits": 2}),
        ("not torch.bfloat16", (codes, scales, weight, weight_scales), {"dtype": torch.bfloat16}),
        (r"weight is .* \[70, 47\]", (codes, scales, weight[:, 1:].contiguous(), weight_scales), {}),
        ("weight .*contiguous", (codes, scales, weight.T.contiguous().T, weight_scales), {}),
        ("scales is", (codes, scales.half(), weight, weight_scales), {}),
        (r"2 inputs|1 inputs for rows \[35, 35\]", (codes, scales, weight, weight_scales), {"rows": (35, 35)}),
        ("multiples of 64", three, {"rows": (70, 70, 70)}),
        ("bias is", (codes, scales, weight, weight_scales), {"bias": normal(71)}),
        ("residual is", (codes, scales, weight, weight_scales), {"residual": normal(5, 71)}),
        ("even number", (codes[..., :1].repeat(1, 1, 2**15 + 1), scales, weight, weight_scales), {}),
        ("even number", (codes[..., :3].contiguous(), scales, weight, weight_scales), {"bits": 8}),
        ("too small", operands(5, 70, 4096), {"workspace": empty_workspace(1, 1, device)}),
    ):
        with pytest.raises(ValueError, match=match):
            linear(*arguments, **options)
