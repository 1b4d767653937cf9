"""The precision of a GPU, emulated on the CPU: products of TF32 operands, attention in bfloat16."""

import contextlib
import math

import numpy as np
import pytest
import torch
from models_for_tests import Workspace, make_tokens, perplexity_losses
from torch.utils._python_dispatch import TorchDispatchMode

from altq.checkpoint.quantized_model import open_model
from altq.evaluation.bootstrap import perplexity_interval
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.quantizers.integer import Codes, quantized_linear
from altq.runtime import device, precision

PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.bmm.default, torch.ops.aten.addmm.default}


def tf32(x):
    """Round to the 10 bits of mantissa that TF32 keeps, to nearest even."""
    bits = x.contiguous().view(torch.int32)
    return (bits + 0xFFF + (bits >> 13 & 1) & ~0x1FFF).view(torch.float32)


class TensorCores(TorchDispatchMode):
    """Rounds the float32 operands of products where altq asks for TF32 on a GPU."""

    def __init__(self):
        super().__init__()
        self.rounded = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in PRODUCTS and args[-1].dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32":
            self.rounded += 1
            args = (*args[:-2], *map(tf32, args[-2:]))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def emulated(monkeypatch):
    """As a context, the CPU computes as a GPU would."""

    @contextlib.contextmanager
    def context():
        with monkeypatch.context() as patch, TensorCores() as cores:
            patch.setattr(device, "ON_CPU", device.ON_GPU)
            patch.setattr(precision, "_has_fast_bfloat16", lambda: False)
            yield cores

    return context


def test_tf32_keeps_eleven_bits():
    assert tf32(torch.tensor([1.0, 1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, -3.0, 0.0])).tolist() == [
        1.0, 1 + 2**-10, 1.0, 1 + 2**-9, -3.0, 0.0
    ]  # fmt: skip


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_products_of_codes_are_exact(emulated, bits):
    generator = torch.Generator().manual_seed(0)
    low, high = -(1 << bits - 1), 1 << bits - 1
    x, weight = (torch.randint(low, high, (n, 1000), generator=generator) for n in (8, 12))
    with emulated() as cores:
        found = quantized_linear(Codes(x.float(), torch.ones(8, 1)), Codes(weight.float(), torch.ones(12, 1)))
    assert cores.rounded and torch.equal(found.long(), x @ weight.T)


@pytest.mark.parametrize("is_quantized", [True, False])
def test_perplexity_moves_by_less_than_its_interval(tmp_path, emulated, is_quantized):
    workspace, tokens = Workspace("llama_gqa", tmp_path), make_tokens(windows=16, length=14, seed=3)
    folder = workspace.model
    if is_quantized:
        folder = workspace.checkpoint(Setting.parse("W4A4K4V4"), ["affine"] * 4, RoundingOptions(windows=4))
    expected = perplexity_losses(open_model(folder), tokens)
    with emulated() as cores:
        found = perplexity_losses(open_model(folder), tokens)
    assert cores.rounded > 20 and found != expected
    own, moved = (
        perplexity_interval(nll, tokens.shape[1] - 1, np.random.Generator(np.random.PCG64(0)))
        for nll in (expected, found)
    )
    half = (own.high - own.low) / 2
    assert math.isfinite(moved.perplexity) and abs(moved.perplexity - own.perplexity) < half / 4
