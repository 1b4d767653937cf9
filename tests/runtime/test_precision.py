import copy

import pytest
import torch
from torch.nn import functional as F

from altq.runtime import precision
from altq.runtime.precision import ReducedLinear, reduce_linear_layers, reduced_linear, reduced_products

# bfloat16 keeps 8 significant bits of each operand; errors of a product of many average out below that.
TOLERANCE = 2**-7


@pytest.fixture
def operands():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator) for shape in ((2, 33, 64), (48, 64), (2, 33, 48))]


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def test_forward_and_both_gradients_are_those_of_a_linear_layer(operands):
    results = []
    for function in (reduced_linear, F.linear):
        inputs, weight, grad = (t.clone().requires_grad_() for t in operands)
        out = function(inputs, weight)
        out.backward(grad.detach())
        assert inputs.grad.shape == inputs.shape and weight.grad.shape == weight.shape
        results.append((out.detach(), inputs.grad, weight.grad))
    for found, expected in zip(*results, strict=True):
        assert relative(found, expected) < TOLERANCE


def test_float64_is_not_reduced(operands):
    inputs, weight, _ = (t.double() for t in operands)
    torch.testing.assert_close(reduced_linear(inputs, weight), F.linear(inputs, weight), rtol=1e-12, atol=1e-12)


def test_gradients_that_nobody_needs_are_not_made(operands):
    inputs, weight, grad = operands
    weight = weight.clone().requires_grad_()
    reduced_linear(inputs, weight).backward(grad)
    assert inputs.grad is None and weight.grad is not None


def test_products_outside_are_full_again_even_after_an_error(operands):
    inputs, weight, _ = operands
    backend = torch.backends.mkldnn.matmul
    before, expected = backend.fp32_precision, F.linear(inputs, weight)
    with reduced_products():
        inside = F.linear(inputs, weight)
        assert relative(inside, expected) < TOLERANCE
    with pytest.raises(KeyError), reduced_products():
        raise KeyError
    assert backend.fp32_precision == before
    assert torch.equal(F.linear(inputs, weight), expected)


def test_products_on_a_gpu_are_tf32_inside_and_keep_float32_outputs(operands, monkeypatch):
    seen, product = [], torch.Tensor.matmul
    inputs, weight, _ = operands
    backend = torch.backends.cuda.matmul
    with reduced_products():
        assert backend.fp32_precision == "tf32"
    assert backend.fp32_precision != "tf32"

    def watched(a, b):
        seen.append((a.dtype, b.dtype, backend.fp32_precision))
        return product(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    out = reduced_linear(inputs.requires_grad_(), weight.requires_grad_())
    out.backward(torch.ones_like(out))
    assert seen == [(torch.float32, torch.float32, "tf32")] * 3


def test_a_linear_layer_that_is_reduced_stays_one(operands):
    inputs, _, _ = operands
    model = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Linear(8, 4, bias=False))
    expected = model(inputs)
    reduce_linear_layers(model)
    assert relative(copy.deepcopy(model)(inputs), expected) < 2 * TOLERANCE
    assert all(isinstance(layer, ReducedLinear) and isinstance(layer, torch.nn.Linear) for layer in model)


def test_without_fast_bfloat16_nothing_changes(operands, monkeypatch):
    monkeypatch.setattr(precision, "_has_fast_bfloat16", lambda: False)
    inputs, weight, _ = operands
    assert torch.equal(reduced_linear(inputs, weight), F.linear(inputs, weight))


def test_nan_comes_through(operands):
    inputs, weight, _ = operands
    inputs[0, 3, 5] = float("nan")
    out = reduced_linear(inputs, weight)
    assert out[0, 3].isnan().all() and torch.isfinite(out[1]).all()


@pytest.mark.parametrize(
    ("instructions", "fast"),
    [("", True), ("ALL", True), ("AVX512_CORE_AMX", True), ("AVX512_CORE", False), ("avx2", False)],
)
def test_onednn_without_amx_is_a_processor_without_it(monkeypatch, instructions, fast):
    # Its products in bfloat16 would be as slow as its own in float32, and round.
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", instructions)
    assert precision._has_fast_bfloat16.__wrapped__() == fast
