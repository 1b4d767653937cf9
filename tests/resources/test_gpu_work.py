"""The plan's counts for a GPU are those of this code: a block of the paper's models runs on the meta device."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from altq.calibration.sublayer import QuantizedSublayer
from altq.calibration.unit import Unit
from altq.experiment.kinds import HALVES
from altq.experiment.recipe import Recipe
from altq.experiment.setting import Setting
from altq.experiment.shape import Shape, Sizes
from altq.models.family import family_of
from altq.models.joints import ATTENTION
from altq.models.sublayer import Sublayer
from altq.quantizers.gptq import gptq_round
from altq.quantizers.quantizer import Quantizers
from altq.resources.block_work import LAUNCHES_OF_A_COLUMN, calibration, forward, step_on_gpu
from altq.resources.machine import BYTES_OF_AN_ELEMENT
from altq.runtime.operations import counted
from altq.transforms.affine import Affine
from altq.transforms.heads import HeadAffine, HeadMixing
from altq.transforms.kronecker import factor_sizes
from altq.transforms.scaling import Scaled, Scaling

WINDOWS, LENGTH = 4, 2048
TOKENS = WINDOWS * LENGTH
RECIPE = Recipe(
    unit="block", start="random", scaling="none", clip_search=False, fitted=["attention", "ffn"], steps=1,
    windows_per_step=WINDOWS,
)  # fmt: skip
SHAPES = {
    "LLaMA-2-7B": (4096, 11008, 32, 32),
    "LLaMA-3-8B": (4096, 14336, 32, 8),
    "70B": (8192, 28672, 64, 8),
}


def affine(size):
    left, right = factor_sizes(size)
    return Scaled(Scaling(torch.ones(size)), Affine(torch.eye(left), torch.eye(right)))


@pytest.fixture(scope="module", params=SHAPES)
def sizes(request):
    hidden, intermediate, heads, kv_heads = SHAPES[request.param]
    shape = Shape(
        hidden_size=hidden, intermediate_size=intermediate, num_heads=heads, num_kv_heads=kv_heads, vocab_size=32
    )
    return Sizes(shape, 1, request.param)


@pytest.fixture
def block(sizes):
    """(transformers' block without weights, its arguments)."""
    shape = sizes.shape
    config = LlamaConfig(
        hidden_size=shape.hidden_size, intermediate_size=shape.intermediate_size, num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads, num_hidden_layers=1, vocab_size=32,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(config, attn_implementation=ATTENTION, dtype=torch.float32)
        rotary = torch.empty(1, LENGTH, sizes.head_dim), torch.empty(1, LENGTH, sizes.head_dim)
    model.requires_grad_(False)
    return model.model.layers[0], {"position_embeddings": rotary, "attention_mask": None}


@pytest.fixture
def unit(sizes, block):
    """Both halves with affine transforms at every site."""
    module, arguments = block
    heads = torch.eye(sizes.head_dim).repeat(sizes.shape.num_kv_heads, 1, 1)
    transforms = {
        "attention": {
            "qkv": affine(sizes.hidden), "key": HeadAffine(heads), "value": HeadAffine(heads.clone()),
            "o": HeadMixing(torch.eye(sizes.shape.num_heads), sizes.query),
        },
        "ffn": {"gate_up": affine(sizes.hidden), "down": affine(sizes.intermediate)},
    }  # fmt: skip
    quantizers = Quantizers.at(Setting(4, 4, 4, 4), signed=False)
    halves = [QuantizedSublayer(Sublayer(module, family_of("llama"), h), transforms[h], quantizers) for h in HALVES]
    return Unit(halves, arguments).to("meta")


@pytest.fixture
def states(sizes):
    return torch.empty(WINDOWS, LENGTH, sizes.hidden, device="meta")


def test_a_step_of_calibration_is_counted_right(sizes, unit, states):
    with counted() as step:
        unit.prepare()
        (unit(states) - states).square().mean().backward()
    planned = calibration(sizes, RECIPE, WINDOWS, LENGTH)
    assert planned.products == pytest.approx(step.products, rel=0.03)
    assert planned.elements * BYTES_OF_AN_ELEMENT == pytest.approx(step.moved, rel=0.15)
    # A launch of 8 microseconds is far less than what it moves takes, so that a plan counts none.
    assert step.launches * 8e-6 < 0.25 * step.moved / 2.7e12
    made_inside = step_on_gpu(sizes, RECIPE, TOKENS) - 4 * sizes.block_weights
    assert made_inside == pytest.approx(step.peak, rel=0.15)


@torch.no_grad()
def test_a_quantized_forward_pass_is_counted_right(sizes, unit, states):
    unit.prepare()
    with counted() as quantized:
        unit(states)
    planned = forward(sizes, TOKENS, LENGTH)
    assert planned.products == pytest.approx(quantized.products, rel=0.03)
    assert planned.elements * BYTES_OF_AN_ELEMENT == pytest.approx(quantized.moved, rel=0.1)


@torch.no_grad()
def test_a_block_in_full_precision_moves_less_than_is_planned(sizes, block, states):
    module, arguments = block
    with counted() as full:
        module(states, **arguments)
    planned = forward(sizes, TOKENS, LENGTH)
    assert planned.products == pytest.approx(full.products, rel=0.05)
    assert 0.5 < full.moved / (planned.elements * BYTES_OF_AN_ELEMENT) < 0.7


def test_the_operations_of_a_column_of_gptq_are_counted():
    weight, inputs = torch.randn(8, 256), torch.randn(512, 256)
    hessian, scale = inputs.T @ inputs, torch.full((8, 1), 0.1)
    with counted() as half:
        gptq_round(weight[:, :128], scale, 4, hessian[:128, :128].contiguous())
    with counted() as whole:
        gptq_round(weight, scale, 4, hessian)
    assert (whole.launches - half.launches) / 128 == pytest.approx(LAUNCHES_OF_A_COLUMN, abs=0.2)
