"""The workspace of programs that share a tile, and the check that it is zero around each launch."""

import pytest
import torch

from kernels.reference.layer import LayerSizes
from kernels.triton import product
from kernels.triton.launch import recording
from kernels.triton.layer import triton_operations
from kernels.triton.linear import linear
from kernels.triton.linear_int4 import linear_int4
from kernels.triton.product import Workspace, check_workspace, empty_workspace

KERNELS = [linear] if torch.cuda.is_available() else [linear, linear_int4]


@pytest.fixture
def checks(monkeypatch):
    monkeypatch.setattr(product, "CHECK_WORKSPACE", True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_sound_workspace_passes(operands, assert_linear, device, checks, kernel):
    drawn, workspace = operands(3, 130, 4096), empty_workspace(3, 130, device)
    for _ in range(2):
        assert_linear(drawn, kernel=kernel, workspace=workspace)
    assert_linear(drawn, kernel=kernel)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("tensor", "counts"), [("sums", "1 sums and 0 arrivals"), ("arrivals", "0 sums and 1 arr")])
def test_what_an_aborted_launch_leaves_is_found_before_the_next(operands, device, checks, kernel, tensor, counts):
    drawn, workspace = operands(3, 130, 4096), empty_workspace(3, 130, device)
    getattr(workspace, tensor)[2] = 1
    with pytest.raises(RuntimeError, match=f"not zero before a launch: {counts}.*make a new one"):
        kernel(*drawn, workspace=workspace)


def test_what_another_stream_adds_meanwhile_is_found_afterwards(operands, device, checks, monkeypatch):
    drawn, workspace = operands(3, 130, 4096), empty_workspace(3, 130, device)
    launch = product.launch

    def beside_another(*arguments, **options):
        launch(*arguments, **options)
        workspace.sums[7] -= 3

    monkeypatch.setattr(product, "launch", beside_another)
    with pytest.raises(RuntimeError, match="not zero after a launch: 1 sums"):
        linear(*drawn, workspace=workspace)


def test_unless_asked_for_the_host_looks_at_nothing(operands, device, monkeypatch):
    assert not product.CHECK_WORKSPACE
    monkeypatch.setattr(product, "check_workspace", None)
    linear(*operands(3, 130, 4096), workspace=empty_workspace(3, 130, device))


def test_a_recording_has_nothing_to_look_at(checks):
    codes, scales = torch.empty(1, 3, 2048, dtype=torch.uint8, device="meta"), torch.empty(1, 3, device="meta")
    weight = torch.empty(130, 2048, dtype=torch.uint8, device="meta"), torch.empty(130, device="meta")
    with recording(80) as launches:
        linear(codes, scales, *weight)
    assert launches[0].arguments["SPLITS"] > 1


@pytest.mark.parametrize(("value", "checked"), [("1", "True"), ("0", "False")])
def test_the_environment_asks_for_it(run_python, project, monkeypatch, value, checked):
    monkeypatch.setenv("ALTQ_CHECK_WORKSPACE", value)
    result = run_python("-c", "from kernels.triton import product; print(product.CHECK_WORKSPACE)", folder=project)
    assert result.stdout.strip() == checked, result.stderr


def test_layers_on_one_stream_share_one_workspace(device):
    sizes = LayerSizes(hidden=192, heads=6, kv_heads=2, head_dim=64, intermediate=256)
    workspace = triton_operations(sizes, device=device).linear.keywords["workspace"]
    check_workspace(workspace, "at first")
    assert isinstance(workspace, Workspace) and len(workspace.sums) >= 128 * 640
