import pytest
import torch

from altq.quantizers.integer import Codes, dequantized, quantized_linear
from altq.quantizers.quantizer import Quantizer
from altq.quantizers.uniform import code_range, fake_quantize, fake_quantize_asymmetric, symmetric_scale
from altq.runtime import precision


@pytest.fixture(params=["reduced", "full"])
def products(request, monkeypatch):
    """Both with reduced-precision products, where the processor has them, and without."""
    if request.param == "full":
        monkeypatch.setattr(precision, "_has_fast_bfloat16", lambda: False)


def random_codes(bits, *shape, seed):
    low, high = code_range(bits)
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize(("x_bits", "weight_bits"), [(2, 2), (3, 4), (4, 4), (8, 4), (8, 8)])
@pytest.mark.parametrize("d_in", [1, 37, 512])
def test_products_of_codes_are_exact(products, x_bits, weight_bits, d_in):
    x = random_codes(x_bits, 2, 33, d_in, seed=0)
    weight = random_codes(weight_bits, 45, d_in, seed=1)
    one = torch.ones(1)
    found = quantized_linear(Codes(x, one.expand(2, 33, 1)), Codes(weight, one.expand(45, 1)))
    assert torch.equal(found, (x.long() @ weight.long().T).float())


def test_scales_of_tokens_and_channels_multiply_the_product(products):
    # Powers of two: nothing is rounded, and the equality is of bits.
    x = Codes(random_codes(4, 5, 24, seed=0), 2.0 ** torch.arange(-2.0, 3.0).unsqueeze(1))
    weight = Codes(random_codes(4, 3, 24, seed=1), -(2.0 ** torch.arange(3.0)).unsqueeze(1))
    assert torch.equal(quantized_linear(x, weight), dequantized(x) @ dequantized(weight).T)


def test_product_equals_that_of_dequantized_tensors(products):
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 64, generator=generator) for n in (9, 20))
    clip, pairs = torch.tensor([0.9]), ((x, True), (weight, False))
    codes = [Quantizer(4, signed=signed).codes(t, clip) for t, signed in pairs]
    expected = dequantized(codes[0]).double() @ dequantized(codes[1]).double().T
    torch.testing.assert_close(quantized_linear(*codes).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_of_tokens_are_those_of_fake_quantization(bits, signed):
    x = torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(0))
    clip = torch.tensor([0.8])
    codes = Quantizer(bits, signed=signed).codes(x, clip)
    assert codes.scale.shape == (3, 7, 1)
    assert torch.equal(codes.codes, codes.codes.round())
    expected = fake_quantize(x, symmetric_scale(x, bits, clip, signed=signed), bits)
    assert torch.equal(dequantized(codes), expected)


@pytest.mark.parametrize("signed", [False, True])  # a zero point makes the sign of the scale needless
@pytest.mark.parametrize("shift", [-8.0, -1.0, 0.0, 3.0])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_asymmetric_codes_of_tokens_are_those_of_fake_quantization(bits, shift, signed):
    x = torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(0)) + shift
    clip = torch.tensor([0.8])
    codes = Quantizer(bits, signed=signed, asymmetric=True).codes(x, clip)
    assert codes.scale.shape == (3, 7, 1) and (codes.scale > 0).all()
    assert torch.equal(codes.codes, codes.codes.round())
    assert torch.equal(dequantized(codes), fake_quantize_asymmetric(x, bits, clip.expand(2)))
    # Less their zero points, codes span at most 2^bits values and hold the zero.
    lowest, highest = codes.codes.amin(-1), codes.codes.amax(-1)
    assert (highest - lowest).max() <= 2**bits - 1
    assert lowest.min() >= -(2**bits - 1) and highest.max() <= 2**bits - 1
    # Not symmetric: one side has more codes than signed ones have where the values lie there.
    assert abs(shift) < 3 or codes.codes.abs().max() == 2**bits - 1


@pytest.mark.parametrize("shift", [-8.0, 0.0, 8.0])
@pytest.mark.parametrize(("x_bits", "weight_bits"), [(4, 4), (8, 8)])
def test_products_of_asymmetric_codes_are_exact(products, x_bits, weight_bits, shift):
    # Codes less their zero points go from -255 to 255 at 8 bits: bfloat16 holds every integer up to 256.
    x = torch.randn(9, 512, generator=torch.Generator().manual_seed(0)) + shift
    read = Quantizer(x_bits, signed=False, asymmetric=True).codes(x, torch.ones(1))
    assert read.codes.abs().max() > (100 if x_bits == 8 else 7)
    weight = random_codes(weight_bits, 45, 512, seed=1)
    found = quantized_linear(Codes(read.codes, torch.ones(9, 1)), Codes(weight, torch.ones(45, 1)))
    assert torch.equal(found, (read.codes.long() @ weight.long().T).float())
    assert torch.equal(read.codes.to(torch.bfloat16).float(), read.codes)
    assert torch.equal(read.codes.to(torch.int16).float(), read.codes)  # as GPTQ keeps them


def test_operands_are_left_as_they_were(products):
    x, weight = Codes(torch.ones(2, 4), torch.full((2, 1), 3.0)), Codes(torch.ones(5, 4), torch.full((5, 1), 2.0))
    assert quantized_linear(x, weight).tolist() == [[24.0] * 5] * 2
    assert x.codes.tolist() == [[1.0] * 4] * 2 and weight.scale.tolist() == [[2.0]] * 5
