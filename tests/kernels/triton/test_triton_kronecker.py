import pytest
import torch

from altq.transforms.hadamard_matrix import orthogonal_hadamard
from altq.transforms.kronecker import factor_sizes
from kernels.reference import kronecker as reference
from kernels.reference.packing import BITS, unpack
from kernels.triton.kronecker import transform_quantize

# The interpreter computes with numpy, which warns of what the tests of NaN and infinity do on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered")


@pytest.fixture
def factors(normal):
    """Well conditioned factors of the sizes given; None for None."""

    def draw(d1, d2):
        return [
            None if d is None else (normal(d, d, seed=d, dtype=torch.float32) / d**0.5).half().contiguous()
            for d in (d1, d2)
        ]

    return draw


def assert_same(x, left, right, clips, **options):
    """The kernel errs against float32 arithmetic no more than the float16 reference, but for the order of its sums.

    Without factors nothing is rounded on the way, and codes and scales must be equal.
    """
    wide = [None if t is None else t.float() for t in (x, left, right)]
    packed, scales = transform_quantize(x, left, right, clips, **options)
    low_packed, low_scales = reference.transform_quantize(x, left, right, clips, **options)
    exact_packed, exact_scales = reference.transform_quantize(*wide, clips, **options)
    assert torch.equal(scales.isnan(), low_scales.isnan())
    finite = scales.isfinite()

    width = options.get("width") or options["bits"]
    codes, low, exact = (unpack(p, width, signed=True)[finite] for p in (packed, low_packed, exact_packed))
    if left is None and right is None and "norm" not in options:
        assert torch.equal(codes, low)
    assert (codes - low).abs().max() <= 1
    wrong, low_wrong = ((c != exact).sum().item() for c in (codes, low))
    assert wrong <= 1.5 * low_wrong + 3, f"{wrong} wrong codes of {codes.numel()}, the reference has {low_wrong}"

    scales, low_scales, exact_scales = (s[finite] for s in (scales, low_scales, exact_scales))
    error, low_error = ((s / exact_scales - 1).abs().max() for s in (scales, low_scales))
    assert error <= 1.5 * low_error + 1e-6
    return packed, scales


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize(("d1", "d2"), [(4, 6), (24, 24), (32, 48), (64, 64), (20, 32), (86, 128), (7, 16)])
def test_the_kernel_equals_the_reference(normal, factors, device, d1, d2, tokens):
    clips = torch.tensor([0.9], device=device)
    assert_same(normal(tokens, d1 * d2), *factors(d1, d2), clips, bits=4)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("signed", [True, False])
def test_every_range_of_codes(normal, factors, device, bits, signed):
    clips = torch.tensor([1.0, 0.8, 0.5], device=device)
    packed, _ = assert_same(normal(5, 16 * 24), *factors(16, 24), clips, bits=bits, signed=signed)
    assert packed.shape == (3, 5, 16 * 24 * bits // 8)


@pytest.mark.parametrize(("bits", "width"), [(2, 4), (3, 4), (4, 8), (3, 8)])
def test_codes_may_take_more_bits_than_they_need(normal, factors, device, bits, width):
    clips = torch.tensor([1.0, 0.7], device=device)
    packed, _ = assert_same(normal(3, 16 * 20), *factors(16, 20), clips, bits=bits, width=width)
    codes = unpack(packed, width, signed=True)
    assert codes.min() >= -(1 << bits - 1) and codes.max() < 1 << bits - 1 and codes.unique().numel() > 2


@pytest.mark.parametrize(("d1", "d2"), [(9, None), (None, 24), (32, None), (None, None)])
def test_a_factor_may_be_missing(normal, factors, device, d1, d2):
    # Heads are mixed with no right factor; nothing is transformed with neither.
    clips = torch.tensor([0.9, 1.0], device=device)
    assert_same(normal(3, 9 * 64 if d1 == 9 else 32 * 24), *factors(d1, d2), clips, bits=4)


@pytest.mark.parametrize("d", [576, 11008 // 4, 512])
def test_plain_quantization_is_exact(normal, device, d):
    assert_same(normal(3, d), None, None, torch.tensor([0.9], device=device), bits=8)


@pytest.mark.parametrize(("d1", "d2"), [(24, 24), (32, 48), (160, 160)])
def test_a_norm_comes_first(normal, factors, device, d1, d2):
    x, norm = 5 * normal(2, d1 * d2), 1 + normal(d1 * d2, seed=1) / 4
    clips = torch.tensor([0.9, 0.8, 1.0], device=device)
    assert_same(x, *factors(d1, d2), clips, bits=4, norm=norm, epsilon=1e-3)


@pytest.mark.parametrize(("d1", "d2"), [(32, 48), (86, 128)])
def test_a_gate_comes_first(normal, factors, device, d1, d2):
    assert_same(2 * normal(2, 2 * d1 * d2), *factors(d1, d2), torch.tensor([0.9], device=device), bits=4, gate=True)


# The widest of Qwen2.5 and LLaMA, in tiles.
@pytest.mark.parametrize(("d1", "d2"), [(128, 148), (128, 224), (144, 192), (168, 176), (256, 128)])
def test_tiles_of_a_token_share_its_scale(normal, factors, device, d1, d2):
    x = normal(1, d1 * d2)
    assert_same(x, *factors(d1, d2), torch.tensor([0.9], device=device), bits=4)


@pytest.mark.parametrize("size", [576, 1536, 960, 4096, 11008, 13824, 14336])
def test_hadamard_transforms_are_constant_factors(normal, device, size):
    sizes = {576: (16, 36), 1536: (128, 12), 960: (48, 20), 11008: (172, 64), 14336: (128, 112)}
    d1, d2 = sizes.get(size) or factor_sizes(size)
    left, right = (orthogonal_hadamard(d).half().to(device) for d in (d1, d2))
    packed, scales = assert_same(normal(2, size), left, right, torch.ones(1, device=device), bits=4)
    # Orthogonal: the lengths of the tokens are kept, up to the error of four bits.
    values = unpack(packed, 4, signed=True)[0] * scales.view(2, 1)
    torch.testing.assert_close(values.norm(dim=-1), normal(2, size).float().norm(dim=-1), rtol=0.05, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("d1", "d2"), [(16, 24), (None, None)])
def test_a_row_that_is_not_finite_has_scale_nan_and_spoils_no_other(normal, factors, device, bad, d1, d2):
    x = normal(3, 384)
    x[1, 7] = bad
    clips = torch.tensor([1.0, 0.5], device=device)
    assert_same(x, *factors(d1, d2), clips, bits=4)
    _, scales = transform_quantize(x, *factors(d1, d2), clips, bits=4)
    assert scales.isnan().tolist() == 2 * [[False, True, False]]


def test_a_row_of_zeros_has_scale_1(normal, factors, device):
    x = normal(3, 384)
    x[1] = 0
    packed, scales = assert_same(x, *factors(16, 24), torch.tensor([0.9], device=device), bits=4)
    assert scales[1] == 1 and not packed[0, 1].any()


def test_no_token_gives_no_code(normal, factors, device):
    packed, scales = transform_quantize(normal(0, 384), *factors(16, 24), torch.ones(2, device=device), bits=4)
    assert packed.shape == (2, 0, 192) and scales.shape == (2, 0)


def test_bad_tensors_are_refused(normal, factors, device):
    x, (left, right), clips = normal(2, 384), factors(16, 24), torch.ones(1, device=device)
    column_major = torch.linalg.qr(left.float())[0].half()
    for match, arguments, options in (
        ("not of 5", (x, left, right, clips), {"bits": 5}),
        ("fill whole bytes", (normal(2, 15), None, None, clips), {"bits": 4}),
        ("do not fit in a width of 4", (x, left, right, clips), {"bits": 8, "width": 4}),
        ("one to three outputs", (x, left, right, torch.ones(4, device=device)), {"bits": 4}),
        (r"qr.*column by column", (x, column_major, right, clips), {"bits": 4}),
        ("x .*contiguous", (normal(384, 2).T, left, right, clips), {"bits": 4}),
        ("torch.float16", (x.float(), left, right, clips), {"bits": 4}),
        ("make 240 channels, but x has 384", (x, left, right[:15, :15].contiguous(), clips), {"bits": 4}),
        ("right is", (x, left, right[:, :15].contiguous(), clips), {"bits": 4}),
        ("too wide", (normal(1, 512 * 256), None, normal(512, 512), clips), {"bits": 4}),
    ):
        with pytest.raises(ValueError, match=match):
            transform_quantize(*arguments, **options)
