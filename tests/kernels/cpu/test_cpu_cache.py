"""The quantizer of keys and values against altq's own, and the head in bfloat16 against torch."""

import pytest
import torch

from altq.quantizers.uniform import fake_quantize_asymmetric
from kernels.cpu import CacheQuantizer, HalfLinear


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("shape", [(1, 3, 1, 64), (2, 3, 13, 30), (1, 3, 70, 7)])
def test_values_are_altqs_own(variant, bits, shape):
    clips = torch.rand(3, 2, generator=torch.Generator().manual_seed(1))
    x = draw(*shape)
    x[0, 0, 0] = 0
    assert torch.equal(
        CacheQuantizer(bits, clips, variant=variant)(x), fake_quantize_asymmetric(x, bits, clips.unsqueeze(1))
    )


@pytest.mark.parametrize("bits", [4, None])
@pytest.mark.parametrize("tokens", [19, 700])
def test_each_head_has_its_transform(variant, bits, threads, tokens):
    factors, x = draw(3, 30, 30), draw(2, tokens, 3, 30).transpose(1, 2)
    assert not x.is_contiguous()
    quantizer = CacheQuantizer(bits, torch.ones(3, 2), factors, variant=variant)
    exact = x.double() @ factors.double()
    span = exact.amax(-1, keepdim=True).clamp(min=0) - exact.amin(-1, keepdim=True).clamp(max=0)
    # Half a step, and as much again where a value beyond the range is clamped.
    step = span / 15 if bits else span * 1e-6
    y = quantizer(x)
    assert ((y - exact).abs() <= 1.01 * step).all()
    for number in (1, 2, 3, 4, 8):
        threads(number)
        assert torch.equal(quantizer(x), y)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_nan_and_no_other(variant, bad):
    x = draw(1, 2, 5, 16)
    quantizer = CacheQuantizer(4, torch.ones(2, 2), variant=variant)
    clean = quantizer(x)
    x[0, 1, 3, 2] = bad
    y = quantizer(x)
    assert y[0, 1, 3].isnan().all()
    y[0, 1, 3] = clean[0, 1, 3]
    assert torch.equal(y, clean)


def test_an_empty_cache(variant):
    assert CacheQuantizer(4, torch.ones(2, 2), variant=variant)(torch.empty(1, 2, 0, 8)).shape == (1, 2, 0, 8)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="2 to 8 bits, not of 9"):
        CacheQuantizer(9, torch.ones(2, 2))
    with pytest.raises(ValueError, match="clips of a cache"):
        CacheQuantizer(4, torch.ones(2))
    with pytest.raises(ValueError, match="2 heads do not have factors"):
        CacheQuantizer(4, torch.ones(2, 2), torch.ones(3, 4, 4))
    with pytest.raises(ValueError, match="a cache of 2 heads does not hold"):
        CacheQuantizer(4, torch.ones(2, 2))(torch.ones(1, 3, 1, 4))
    with pytest.raises(ValueError, match="bfloat16"):
        HalfLinear(torch.ones(2, 2))
    with pytest.raises(ValueError, match="a layer of 2 channels"):
        HalfLinear(torch.ones(2, 2, dtype=torch.bfloat16))(torch.ones(1, 3))


@pytest.mark.parametrize("d_in", [16, 48, 576, 30])
@pytest.mark.parametrize("tokens", [0, 1, 3, 40])
def test_the_head_in_bfloat16(variant, d_in, tokens):
    weight, x = draw(101, d_in).bfloat16(), draw(tokens, d_in, seed=1)
    exact = x.double() @ weight.double().T
    y = HalfLinear(weight, variant=variant)(x)
    bound = d_in * torch.finfo(torch.float32).eps * (x.double().abs() @ weight.double().abs().T)
    assert y.shape == (tokens, 101) and ((y - exact).abs() <= bound).all()
