import pytest
import torch

from kernels.reference import cache as reference
from kernels.reference.cache import Cache, dequantize, empty_cache
from kernels.reference.packing import BITS
from kernels.triton.cache import append

# The interpreter computes with numpy, which warns of what the tests of NaN and infinity do on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered")


@pytest.fixture
def arguments(normal, device):
    """Arguments of `append`, without the caches: clips, rotary tables and key factors of some heads."""

    def draw(batch, tokens, heads, kv_heads, head_dim, *, capacity=40):
        angles = torch.arange(capacity).unsqueeze(-1) * 0.5 ** torch.arange(head_dim // 2)
        factors = normal(kv_heads, head_dim, head_dim, dtype=torch.float32) / 8 + torch.eye(head_dim, device=device)
        return normal(batch, tokens, (heads + 2 * kv_heads) * head_dim, seed=1), {
            "key_clip": torch.linspace(0.7, 1.0, 2 * kv_heads, device=device).view(kv_heads, 2),
            "value_clip": torch.linspace(1.0, 0.8, 2 * kv_heads, device=device).view(kv_heads, 2),
            "rotary": (angles.cos().to(device), angles.sin().to(device)),
            "key_factors": factors.half(),
            "query_factors": torch.linalg.inv(factors).mT.half().contiguous(),
        }

    return draw


def both(qkv, positions, heads, bits, capacity, **options):
    """Results and caches of the kernel and of the reference."""
    kv_heads, head_dim = heads
    for function in (append, reference.append):
        caches = [
            empty_cache(len(qkv), kv_heads, capacity, head_dim, b, device=qkv.device) for b in bits
        ]  # key cache, value cache
        results = function(qkv, positions, *caches, key_bits=bits[0], value_bits=bits[1], **options)
        yield results, caches


@pytest.mark.parametrize("key_bits", BITS)
@pytest.mark.parametrize("value_bits", BITS)
def test_without_a_transform_codes_are_exact(arguments, device, key_bits, value_bits):
    qkv, options = arguments(2, 3, 6, 2, 32)
    options |= {"rotary": None, "key_factors": None, "query_factors": None, "keep_values": True}
    positions = torch.tensor([0, 17], dtype=torch.int32, device=device)
    kernel, expected = both(qkv, positions, (2, 32), (key_bits, value_bits), 20, **options)
    for result, wanted in zip((*kernel[0], *kernel[1]), (*expected[0], *expected[1]), strict=True):
        if isinstance(result, Cache):
            assert torch.equal(result.codes, wanted.codes) and torch.equal(result.ranges, wanted.ranges)
            assert result.codes.any()
        else:
            assert torch.equal(result, wanted)


# One token and several, groups of 1, 3, 4 and 8 query heads, head sizes of SmolLM2, LLaMA and Gemma.
@pytest.mark.parametrize(
    ("batch", "tokens", "heads", "kv_heads", "head_dim"),
    [(1, 1, 2, 2, 64), (3, 1, 9, 3, 64), (2, 19, 4, 1, 128), (1, 5, 8, 1, 16), (1, 2, 4, 2, 256)],
)
def test_the_kernel_equals_the_reference(arguments, device, batch, tokens, heads, kv_heads, head_dim):
    qkv, options = arguments(batch, tokens, heads, kv_heads, head_dim)
    positions = torch.arange(batch, dtype=torch.int32, device=device) * 7
    kernel, expected = both(qkv, positions, (kv_heads, head_dim), (4, 4), 40, **options, keep_values=True)
    for result, wanted in zip(kernel[0], expected[0], strict=True):
        # A code that tips moves a key by one step of its scale, about 0.5 here; few may.
        far = (result - wanted).abs() > 2e-2
        assert far.float().mean() < 1e-3
    key_difference, value_difference = (
        (dequantize(a, 4) != dequantize(b, 4)).float().mean() for a, b in zip(kernel[1], expected[1], strict=True)
    )
    assert value_difference == 0 and key_difference < 0.05  # the scale itself may round to the next float16


def test_tokens_beyond_the_capacity_are_not_written(arguments, device):
    qkv, options = arguments(1, 4, 2, 2, 32)
    positions = torch.tensor([18], dtype=torch.int32, device=device)
    kernel, expected = both(qkv, positions, (2, 32), (4, 4), 20, **options)
    for cache, wanted in zip(kernel[1], expected[1], strict=True):
        assert cache.codes.shape == wanted.codes.shape and torch.equal(cache.ranges != 0, wanted.ranges != 0)
        assert cache.codes[:, :, 18:].any() and not cache.codes[:, :, :18].any()


@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("far", [20, 21, -1, -40, 10**8, 2**31 - 1, -(2**31)])
def test_a_token_outside_the_cache_is_nan_and_touches_nothing(arguments, device, rotary, far):
    qkv, options = arguments(3, 1, 2, 2, 32)
    # The table is a part of a longer one, as the cache is of the memory: what lies beyond must not be read.
    options["rotary"] = [table[:20] for table in options["rotary"]] if rotary else None
    positions = torch.tensor([3, far, 19], dtype=torch.int32, device=device)
    kernel, expected = both(qkv, positions, (2, 32), (4, 4), 20, **options, keep_values=True)
    for result, wanted in zip(kernel[0], expected[0], strict=True):
        assert result[1].isnan().all() and wanted[1].isnan().all()
        torch.testing.assert_close(result[::2], wanted[::2], rtol=0, atol=2e-2)
    for cache, wanted in zip(kernel[1], expected[1], strict=True):
        for side in (cache, wanted):
            assert not side.ranges[1].any() and not side.codes[1].any()
            assert side.ranges[0, :, :, 0].nonzero()[:, 1].tolist() == [3, 3]
            assert side.ranges[2, :, :, 0].nonzero()[:, 1].tolist() == [19, 19]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_token_that_is_not_finite_has_scale_nan_and_spoils_no_other(arguments, device, bad):
    qkv, options = arguments(1, 3, 2, 1, 32)
    qkv[0, 1] = bad
    positions = torch.zeros(1, dtype=torch.int32, device=device)
    (_, caches), _ = both(qkv, positions, (1, 32), (4, 3), 3, **options)
    for cache in caches:
        assert cache.ranges[0, 0, :, 0].isnan().tolist() == [False, True, False]


def test_a_row_of_zeros_stays_zero(arguments, device):
    qkv, options = arguments(1, 1, 1, 1, 32)
    (_, caches), _ = both(qkv.zero_(), torch.zeros(1, dtype=torch.int32, device=device), (1, 32), (4, 4), 1, **options)
    assert all(not dequantize(cache, 4).any() for cache in caches)


def test_no_token_appends_nothing(arguments, device):
    qkv, options = arguments(1, 0, 2, 1, 32)
    (results, _), _ = both(qkv, torch.zeros(1, dtype=torch.int32, device=device), (1, 32), (4, 4), 3, **options)
    assert results[0].shape == (1, 2, 0, 32)


def test_bad_tensors_are_refused(arguments, device):
    qkv, options = arguments(1, 3, 2, 1, 32)
    cache, positions = empty_cache(1, 1, 40, 32, 4, device=device), torch.zeros(1, dtype=torch.int32, device=device)
    bits = {"key_bits": 4, "value_bits": 4}
    wide = empty_cache(1, 1, 40, 48, 4, device=device)
    column_major = torch.linalg.qr(options["key_factors"].float())[0].half()
    for match, caches, changed in (
        ("not of 5", (cache, cache), {"key_bits": 5}),
        ("codes of values", (cache, cache), {"value_bits": 8}),
        ("48 channels: the kernels need a power of two", (wide, wide), {}),
        ("ranges of keys", (Cache(cache.codes, cache.ranges.float()), cache), {}),
        ("belong together", (cache, cache), {"query_factors": None}),
        ("column by column", (cache, cache), {"key_factors": column_major}),
        ("key_clip", (cache, cache), {"key_clip": torch.ones(2, device=device)}),
        ("shorter than the cache", (cache, cache), {"rotary": [table[:39] for table in options["rotary"]]}),
    ):
        with pytest.raises(ValueError, match=match):
            append(qkv, positions, *caches, **{**options, **bits, **changed})
    with pytest.raises(ValueError, match="does not hold 1 key and value heads"):
        append(qkv[..., :33].contiguous(), positions, cache, cache, **options, **bits)
