"""A checkpoint on the GPU kernels is the one on the CPU kernels; without a GPU they run in Triton's interpreter."""

import logging

import pytest
import torch
from models_for_tests import Workspace, logits, make_tokens, relative_error

from altq.checkpoint.packed_model import (
    TRITON,
    beyond_packing,
    kernels_of,
    load_packed_model,
    packed_joints,
    weight_memory,
)
from altq.checkpoint.quantized_model import CacheReader, load_model
from altq.checkpoint.triton_products import TritonProducts
from altq.evaluation.generation import load_generator
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting

ROUNDING = RoundingOptions(weights="rtn", windows=4)
# The interpreter computes with numpy, which warns where a scale of 1 stands for rows of zeros.
pytestmark = [
    pytest.mark.filterwarnings("ignore:divide by zero"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="these models lie on the CPU; make gpu runs one on a GPU"),
]


@pytest.fixture(scope="module", params=["llama_gqa", "qwen2", "mistral"])
def workspace(request, tmp_path_factory):
    """A model with its states; qwen2 has biases."""
    return Workspace(request.param, tmp_path_factory.mktemp(request.param))


# Inputs and factors in float16 tip a code where a value lies near the middle of two: with 36 channels a code of 8 bits is
# little of a token, one of 4 bits much.
@pytest.mark.parametrize(
    ("setting", "middle", "largest"),
    [(Setting(8, 8, 8, 8), 0.02, 0.03), (Setting(4, 8, 16, 16), 0.02, 0.03), (Setting(4, 4, 4, 4), 0.15, 0.4)],
)
def test_its_logits_are_those_of_the_cpu_kernels(workspace, setting, middle, largest):
    folder = workspace.checkpoint(setting, ["affine", "rotation", "identity", "hadamard"], ROUNDING)
    tokens = make_tokens(windows=16, length=12, seed=3)
    found, expected = (logits(load_packed_model(folder, variant), tokens) for variant in (TRITON, None))
    errors = sorted(map(relative_error, found, expected))
    assert errors[len(errors) // 2] < middle and errors[-1] < largest


def test_every_site_runs_on_packed_weights(tmp_path):
    folder = Workspace("llama_gqa", tmp_path).checkpoint(Setting(4, 4, 4, 4), ["affine"] * 4, ROUNDING)
    triton, cpu, plain = load_packed_model(folder, TRITON), load_packed_model(folder, "torch"), load_model(folder)
    assert kernels_of(triton) == "triton kernels" and kernels_of(cpu) == "torch kernels"
    assert kernels_of(plain) == "codes as floats"
    memory = weight_memory(triton)
    assert memory.projections_in_float32 == weight_memory(cpu).projections_in_float32
    assert memory.projections < memory.projections_in_float32 / 5
    assert weight_memory(plain).projections > memory.projections_in_float32


def test_a_site_beyond_the_kernels_is_computed_by_torch_and_named_once(tmp_path, caplog):
    workspace = Workspace("llama_gqa", tmp_path)
    folder = workspace.checkpoint(Setting(4, 4, 4, 4), ["balance", "affine", "balance", "affine"], ROUNDING)
    with caplog.at_level(logging.WARNING, logger="altq"):
        model = load_packed_model(folder, TRITON)
    (message,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert message == (
        "self_attn.q_proj, self_attn.k_proj, self_attn.v_proj: in plain torch, with codes held as floats; the GPU kernels "
        "do not know a transform with a factor for each run of channels"
    )
    assert kernels_of(model) == "triton kernels, 2 of 8 sites with codes as floats"
    tokens = make_tokens(windows=8, length=12, seed=3)
    errors = sorted(map(relative_error, logits(model, tokens), logits(load_model(folder), tokens)))
    assert errors[4] < 0.15


@pytest.mark.parametrize("setting", [Setting(16, 4, 4, 4), Setting(4, 16, 4, 4), Setting(5, 4, 4, 4)])
def test_widths_that_no_kernel_knows_run_in_torch(setting, tmp_path):
    workspace = Workspace("llama_gqa", tmp_path)
    folder = workspace.checkpoint(setting, ["identity"] * 4, ROUNDING)
    tokens = make_tokens(windows=4, length=12)
    assert torch.equal(logits(load_packed_model(folder, TRITON), tokens), logits(load_model(folder), tokens))


def test_a_gpu_gets_its_kernels_unless_others_are_asked_for():
    products, cache_reader = packed_joints(device=torch.device("cuda"))
    assert isinstance(products, TritonProducts) and cache_reader is CacheReader
    products, cache_reader = packed_joints(device=torch.device("cpu"))
    assert not isinstance(products, TritonProducts) and cache_reader is not CacheReader


@pytest.mark.parametrize("kind", ["affine", "scaling"])
def test_a_scaling_that_stays_online_runs_in_torch(kind, tmp_path):
    folder = Workspace("olmo2", tmp_path).checkpoint(Setting(4, 4, 4, 4), [kind] * 4, ROUNDING)
    assert beyond_packing(folder) == "a scaling that stays online"
    assert kernels_of(load_packed_model(folder, TRITON)) == "triton kernels, 4 of 8 sites with codes as floats"
    tokens = make_tokens(windows=4, length=12)
    assert torch.equal(logits(load_generator(folder), tokens), logits(load_model(folder), tokens))
