"""The linear layer on the CPU against integer arithmetic: every variant, to the bit."""

import math

import pytest
import torch

from altq.quantizers.quantizer import Quantizer
from altq.transforms.balance import Balance
from altq.transforms.kronecker import apply_kronecker
from kernels.cpu import Activations, QuantizedLinear
from kernels.cpu.variant import supported_variants
from kernels.reference.kronecker import transform_quantize
from kernels.reference.packing import unpack


def made(d_out, d_in, bits=4, seed=0):
    """Codes [d_out, d_in], the smallest and largest among them, and scales of both signs [d_out]."""
    generator = torch.Generator().manual_seed(seed)
    half = 1 << bits - 1
    codes = torch.randint(-half, half, (d_out, d_in), dtype=torch.int8, generator=generator)
    codes[0, : d_in // 2], codes[-1, : d_in // 2] = -half, half - 1
    return codes, torch.randn(d_out, generator=generator)


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def expected(codes, scale, weights, weight_scale, bias=None):
    """The exact product of integers, then the scales in float32, in the order that the layer promises."""
    product = (codes.double() @ weights.double().T).float()
    y = product * scale * weight_scale
    return y if bias is None else y + bias


# Depths and rows that fill no whole vector, panel or strip; tokens on both sides of every switch between ways.
@pytest.mark.parametrize(
    ("d_out", "d_in", "tokens"),
    [(1, 1, 1), (33, 30, 5), (31, 67, 3), (64, 576, 1), (95, 513, 9), (40, 1025, 16), (96, 576, 33), (37, 130, 300)],
)
def test_products_are_those_of_integers(variant, d_out, d_in, tokens):
    weights, weight_scale = made(d_out, d_in)
    bias, x = draw(d_out), draw(tokens, d_in, seed=2)
    layer = QuantizedLinear(
        weights, weight_scale, weight_bits=4, activations=Activations(4, 0.9), bias=bias, variant=variant
    )
    codes, scale = layer.quantize(x)
    assert torch.equal(layer(x), expected(codes, scale, weights, weight_scale, bias))


@pytest.mark.parametrize("weight_bits", [2, 3, 4, 8])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("tokens", [1, 20])
def test_all_bits(variant, weight_bits, bits, tokens):
    weights, weight_scale = made(50, 200, weight_bits)
    layer = QuantizedLinear(
        weights, weight_scale, weight_bits=weight_bits, activations=Activations(bits, 0.5), variant=variant
    )
    x = draw(tokens, 200)
    x[0] = 1.0  # codes of one sign: the largest sums that there are
    codes, scale = layer.quantize(x)
    assert codes.min() == -(1 << bits - 1)
    assert torch.equal(layer(x), expected(codes, scale, weights, weight_scale))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("size", [64, 77])
def test_codes_are_altqs_own(variant, signed, bits, size):
    x = draw(40, size) * torch.logspace(-20, 20, 40).unsqueeze(1)
    x[3], x[4, 5:] = 0, 0
    x[5] = torch.arange(size) - size // 2 + 0.5  # ties
    clip = torch.tensor([0.73])
    layer = QuantizedLinear(
        *made(32, size), weight_bits=4, activations=Activations(bits, clip, signed), variant=variant
    )
    codes, scale = layer.quantize(x)
    own = Quantizer(bits, signed=signed).codes(x, clip)
    assert torch.equal(scale, own.scale) and torch.equal(codes.float(), own.codes)
    packed, scales = transform_quantize(x, None, None, clip, bits=bits, width=8, signed=signed)
    assert torch.equal(scales[0], scale[:, 0])
    assert torch.equal(unpack(packed[0], 8, signed=True).to(torch.int8), codes)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_zero_points(variant, bits):
    x, clip = draw(40, 90) + 0.5, torch.tensor([0.9, 0.8])
    x[0], x[1] = x[0].abs(), -x[1].abs()
    weights, weight_scale = made(40, 90)
    activations = Activations(bits, clip, asymmetric=True)
    layer = QuantizedLinear(weights, weight_scale, weight_bits=4, activations=activations, variant=variant)
    codes, scale = layer.quantize(x)
    own = Quantizer(bits, signed=False, asymmetric=True).codes(x, clip)
    assert torch.equal(scale, own.scale) and torch.equal(codes.float(), own.codes)
    assert torch.equal(layer(x), expected(codes, scale, weights, weight_scale))


FACTORS = [((24, 24), "both"), ((9, 64), "left"), ((7, 11), "both"), ((1, 40), "both"), ((86, 128), "both"),
           ((5, 12), "right"), ((4, 30), "runs")]  # fmt: skip


@pytest.mark.parametrize(("sizes", "which"), FACTORS)
@pytest.mark.parametrize("tokens", [1, 35])
def test_transforms(variant, sizes, which, tokens):
    d1, d2 = sizes
    left = draw(d1, d1) / math.sqrt(d1) if which != "right" else None
    right = {"left": None, "runs": draw(d1, d2, d2, seed=3)}.get(which, draw(d2, d2, seed=3))
    x = draw(tokens, d1 * d2, seed=4)
    if which == "runs":
        exact = Balance(right.double(), left.double()).apply_to(x.double())
    else:
        eye = torch.eye(d1).double()
        exact = apply_kronecker(
            x.double(), eye if left is None else left.double(), None if right is None else right.double()
        )
    weights, weight_scale = made(33, d1 * d2)
    layer = QuantizedLinear(
        weights, weight_scale, weight_bits=4, activations=Activations(8), left=left, right=right, variant=variant
    )
    codes, scale = layer.quantize(x)
    assert torch.equal(layer(x), expected(codes, scale, weights, weight_scale))
    # Half a step of rounding, and the float32 sums of the two products.
    error = (codes.double() * scale.double() - exact).abs() / scale.abs()
    assert error.max() <= 0.5 + 127 * (d1 + d2) * torch.finfo(torch.float32).eps


def test_factors_may_be_laid_out_by_columns(variant):
    left, right = (torch.linalg.qr(draw(16, 16, seed=seed))[0] for seed in (1, 2))
    assert not left.is_contiguous()
    options = {"weight_bits": 4, "activations": Activations(4), "variant": variant}
    weights, weight_scale = made(32, 256)
    layer = QuantizedLinear(weights.T.contiguous().T, weight_scale, left=left, right=right, **options)
    other = QuantizedLinear(weights, weight_scale, left=left.contiguous(), right=right.contiguous(), **options)
    x = draw(256, 6)
    assert torch.equal(layer(x.T), other(x.T.contiguous()))
    assert torch.equal(layer(x.T.double()), other(x.T.contiguous()))


def test_scales_and_bias_may_be_strided(variant):
    weights, weight_scale = made(48, 40)
    strided = torch.stack((weight_scale, weight_scale + 1), dim=1)
    options = {"weight_bits": 4, "activations": Activations(4), "variant": variant}
    layer = QuantizedLinear(weights, strided[:, :1], bias=strided[:, 1], **options)
    other = QuantizedLinear(weights, weight_scale, bias=weight_scale + 1, **options)
    x = draw(3, 40)
    assert torch.equal(layer(x), other(x))


@pytest.mark.parametrize(("d1", "d2"), [(24, 24), (7, 11), (86, 128)])
@pytest.mark.parametrize("runs", [False, True])
def test_threads_change_no_bit(variant, threads, d1, d2, runs):
    weights, weight_scale = made(100, d1 * d2)
    right = draw(*([d1] if runs else []), d2, d2, seed=5)
    layer = QuantizedLinear(
        weights, weight_scale, weight_bits=4, activations=Activations(4), left=draw(d1, d1), right=right,
        variant=variant,
    )  # fmt: skip
    for tokens in (1, 10, 50, 270):
        x, outputs = draw(tokens, d1 * d2, seed=6), []
        for number in (1, 2, 3, 4, 8):
            threads(number)
            outputs.append(layer(x))
            assert torch.get_num_threads() == number
        assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_empty_batches_and_leading_axes(variant):
    weights, weight_scale = made(20, 30)
    layer = QuantizedLinear(weights, weight_scale, weight_bits=4, activations=Activations(4), variant=variant)
    assert layer(torch.empty(0, 30)).shape == (0, 20) and layer(torch.empty(2, 0, 30)).shape == (2, 0, 20)
    assert [tuple(t.shape) for t in layer.quantize(torch.empty(0, 30))] == [(0, 30), (0, 1)]
    x = draw(2, 3, 30)
    assert torch.equal(layer(x).flatten(0, 1), layer(x.flatten(0, 1))) and torch.equal(layer(x[0, 0]), layer(x)[0, 0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("has_factors", [False, True])
def test_a_token_that_is_not_finite_gives_a_row_of_nan_and_no_other(variant, bad, asymmetric, has_factors):
    weights, weight_scale = made(40, 64)
    factors = {"left": draw(8, 8), "right": draw(8, 8)} if has_factors else {}
    layer = QuantizedLinear(
        weights,
        weight_scale,
        weight_bits=4,
        activations=Activations(4, asymmetric=asymmetric),
        variant=variant,
        **factors,
    )
    x = draw(20, 64)
    clean = layer(x)
    x[7, 63] = bad
    y = layer(x)
    assert y[7].isnan().all()
    others = torch.arange(20) != 7
    assert torch.equal(y[others], clean[others])


def test_memory_is_half_a_byte_a_weight(variant):
    layer = QuantizedLinear(*made(64, 128), weight_bits=4, activations=Activations(4), variant=variant)
    assert layer.weight_bytes == 64 * 128 // (1 if variant == "torch" else 2) + 4 * 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_bits": 5}, "weights of 2, 3, 4, 8 bits, not of 5"),
        ({"weight_bits": 3}, "do not fit in 3 bits"),
        ({"codes": torch.zeros(4, 6)}, "int8 codes"),
        ({"scale": torch.ones(3)}, "4 rows of codes need a scale each"),
        ({"bias": torch.ones(3)}, "4 rows of codes need a scale each"),
        ({"left": torch.ones(2, 3)}, "square"),
        ({"left": torch.ones(4, 4)}, "do not transform 6 channels"),
        ({"left": torch.ones(2, 2), "right": torch.ones(2, 2)}, "do not transform 6 channels"),
        ({"right": torch.ones(3, 3, 3)}, "do not transform 6 channels"),
        ({"variant": "sse"}, "there is no variant 'sse'"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    codes = torch.tensor([[7, -8, 0, 0, 0, 0]] * 4, dtype=torch.int8)
    given = {"codes": codes, "scale": torch.ones(4), "weight_bits": 4, "activations": Activations(4)} | change
    with pytest.raises(ValueError, match=message):
        QuantizedLinear(given.pop("codes"), given.pop("scale"), **given)


def test_bad_activations_are_refused(variant):
    with pytest.raises(ValueError, match="activations of 2, 3, 4, 8 bits, not of 6"):
        Activations(6)
    with pytest.raises(ValueError, match="8 bits with a zero point"):
        Activations(8, asymmetric=True)
    layer = QuantizedLinear(*made(4, 6), weight_bits=4, activations=Activations(4), variant=variant)
    for x in (torch.zeros(3, 7), torch.zeros(3, 6, dtype=torch.int32), torch.zeros(3, 6, device="meta")):
        with pytest.raises(ValueError, match="a layer of 6 channels reads"):
            layer(x)


def test_compiled_variants_agree_to_the_bit():
    names = [variant.name for variant in supported_variants()]
    if len(names) < 2:
        pytest.skip("this processor runs fewer than two variants")
    weights, weight_scale = made(70, 24 * 36)
    x, left, right = draw(40, 24 * 36), draw(24, 24, seed=7), draw(36, 36, seed=8)
    outputs = [
        QuantizedLinear(
            weights,
            weight_scale,
            weight_bits=4,
            activations=Activations(4),
            left=left,
            right=right,
            bias=draw(70),
            variant=name,
        )(x)
        for name in names
    ]
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


def test_the_torch_path_is_exact_without_integer_instructions_too(run_python, monkeypatch, project):
    # As on a processor without VNNI, where torch's own integer product overflows 16 bits, and with MKL's code for it,
    # which splits sums among threads.
    for name in ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY"):
        monkeypatch.setenv(name, "avx2" if name.startswith("ATEN") else "AVX2")
    file = "tests/kernels/cpu/test_cpu_linear.py"
    chosen = "torch and (test_all_bits or test_threads or test_products)"
    result = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", file, "-k", chosen, folder=project)
    assert result.returncode == 0, result.stdout
    assert " passed" in result.stdout and "skipped" not in result.stdout
