"""The int4 path; on the CPU the instruction is spelled out, so that fragments, tiles and epilogue are tested."""

import pytest
import torch

from kernels.triton.launch import recording
from kernels.triton.linear_int4 import INT4_TARGETS, linear_int4
from kernels.triton.product import empty_workspace

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available()
    and torch.cuda.get_device_capability() not in [divmod(t, 10) for t in (*INT4_TARGETS, 86)],
    reason="this GPU has no int4 tensor cores",
)


@pytest.mark.parametrize(
    ("tokens", "rows", "channels"),
    [(1, 1, 16), (1, 130, 592), (9, 65, 96), (17, 40, 144), (40, 65, 112), (70, 20, 80), (130, 20, 48)],
)
def test_the_kernel_equals_the_reference(operands, assert_linear, tokens, rows, channels):
    assert_linear(operands(tokens, rows, channels), kernel=linear_int4)


@pytest.mark.parametrize("rows", [(128, 64), (192, 64, 64)])
@pytest.mark.parametrize("tokens", [1, 20])
def test_several_inputs_share_a_launch(operands, assert_linear, normal, tokens, rows):
    bias, residual = normal(sum(rows), seed=2), normal(tokens, sum(rows), seed=3)
    drawn = operands(tokens, sum(rows), 80, outputs=len(rows))
    assert_linear(drawn, kernel=linear_int4, rows=rows, bias=bias, residual=residual)


@pytest.mark.parametrize("tokens", [1, 20])
def test_programs_that_share_a_tile_leave_the_workspace_zero(operands, assert_linear, device, tokens):
    drawn, workspace = operands(tokens, 30, 1040), empty_workspace(tokens, 30, device)
    for _ in range(2):
        assert_linear(drawn, kernel=linear_int4, workspace=workspace)
        assert not workspace.sums.any() and not workspace.arrivals.any()


def test_bad_operands_are_refused(operands):
    with pytest.raises(ValueError, match="24 input channels: the int4 path needs a multiple of 16"):
        linear_int4(*operands(1, 20, 24))
    with pytest.raises(ValueError, match="not 8 by 4"):
        linear_int4(*operands(1, 20, 32, bits=8), bits=8)


@pytest.mark.parametrize("target", [90, 100])
def test_a_target_without_int4_is_refused(target):
    codes = torch.empty(1, 3, 8, dtype=torch.uint8, device="meta")
    scales = torch.empty(1, 3, device="meta")
    with recording(target), pytest.raises(RuntimeError, match=f"{target / 10} has no int4 tensor cores"):
        linear_int4(codes, scales, codes[0], scales[0])
