import pytest
import torch

from kernels.reference import attention as reference
from kernels.reference.cache import Cache, append, empty_cache
from kernels.reference.packing import BITS
from kernels.triton.attention import decode_attention

# The interpreter computes with numpy, which warns of what the tests of NaN and infinity do on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered")


@pytest.fixture
def filled(normal, device):
    """Queries and filled caches: every place of the capacity holds a token."""

    def draw(batch, heads, kv_heads, head_dim, capacity, bits):
        caches = [empty_cache(batch, kv_heads, capacity, head_dim, b, device=device) for b in bits]
        qkv = normal(batch, capacity, (heads + 2 * kv_heads) * head_dim)
        # Values of very different sizes: their scales must not push weights out of float16.
        qkv[..., -kv_heads * head_dim :] *= (10 ** normal(batch, capacity, 1, seed=1)).clamp(1e-3, 1e2)
        clip, start = torch.ones(kv_heads, 2, device=device), torch.zeros(batch, dtype=torch.int32, device=device)
        append(qkv, start, *caches, key_bits=bits[0], value_bits=bits[1], key_clip=clip, value_clip=clip)
        return normal(batch, heads, head_dim, seed=2), *caches

    return draw


def assert_same(queries, key_cache, value_cache, positions, bits, **options):
    options |= {"key_bits": bits[0], "value_bits": bits[1]}
    output = decode_attention(queries, key_cache, value_cache, positions, **options)
    options.pop("splits", None)
    caches = [Cache(c.codes, c.ranges.float()) for c in (key_cache, value_cache)]
    low = reference.decode_attention(queries, *caches, positions, **options)
    if options.get("query_factors") is not None:
        options["query_factors"] = options["query_factors"].float()
    exact = reference.decode_attention(queries.float(), *caches, positions, **options)
    assert torch.equal(output.isnan(), exact.isnan())
    # The reference rounds its inputs and its output alone; the kernel rounds the weights too, to 2^-11 of themselves.
    size = exact.nan_to_num().abs().amax(-1, keepdim=True)
    error, low_error = ((x - exact).nan_to_num().abs() for x in (output, low))
    assert (error <= 2 * low_error + 2**-10 * size).all(), f"{(error / size).max():.1e} {(low_error / size).max():.1e}"
    return output


@pytest.mark.parametrize("key_bits", BITS)
@pytest.mark.parametrize("value_bits", BITS)
def test_every_width_of_codes(filled, device, key_bits, value_bits):
    bits = (key_bits, value_bits)
    positions = torch.tensor([99], dtype=torch.int32, device=device)
    assert_same(*filled(1, 2, 2, 64, 100, bits), positions, bits)


# Groups of 1, 3, 4 and 8 query heads; one token, a full cache, ends inside and at the borders of tiles and splits.
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (9, 3), (4, 1), (8, 1)])
@pytest.mark.parametrize("splits", [1, 4])
def test_groups_lengths_and_splits(filled, device, heads, kv_heads, splits):
    positions = torch.tensor([0, 63, 64, 130, 299], dtype=torch.int32, device=device)
    assert_same(*filled(5, heads, kv_heads, 64, 300, (4, 4)), positions, (4, 4), splits=splits)


def test_the_number_of_splits_follows_the_cache(filled, device):
    positions = torch.tensor([700], dtype=torch.int32, device=device)
    assert_same(*filled(1, 2, 2, 64, 1024, (4, 3)), positions, (4, 3))


@pytest.mark.parametrize("bits", [(4, 4), (3, 2)])
def test_the_key_transform_may_be_fused(filled, normal, device, bits):
    factors = normal(2, 128, 128, seed=5) / 128**0.5
    positions = torch.tensor([40, 65], dtype=torch.int32, device=device)
    assert_same(*filled(2, 4, 2, 128, 70, bits), positions, bits, query_factors=factors)


@pytest.mark.parametrize("splits", [1, 2])
def test_nothing_is_read_beyond_the_newest_token(filled, device, splits):
    queries, keys, values = filled(2, 2, 1, 64, 80, (4, 4))
    for cache in (keys, values):
        cache.ranges[0, :, 50:] = torch.nan
    positions = torch.tensor([49, 79], dtype=torch.int32, device=device)
    assert assert_same(queries, keys, values, positions, (4, 4), splits=splits).isfinite().all()
    values.ranges[0, :, 49] = torch.nan
    output = assert_same(queries, keys, values, positions, (4, 4), splits=splits)
    assert output[0].isnan().all() and output[1].isfinite().all()


@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("beyond", [80, 95, 2**31 - 1])
def test_a_full_cache_is_read_to_its_end_and_no_further(filled, device, splits, beyond):
    queries, keys, values = filled(2, 2, 1, 64, 80, (4, 4))
    full, past = (torch.tensor([p, 79], dtype=torch.int32, device=device) for p in (79, beyond))
    output = assert_same(queries, keys, values, past, (4, 4), splits=splits)
    assert torch.equal(output, assert_same(queries, keys, values, full, (4, 4), splits=splits))
    # What lies behind the first sequence's cache is that of the second.
    keys.codes[1], values.codes[1] = 0, 0
    assert torch.equal(
        decode_attention(queries, keys, values, past, key_bits=4, value_bits=4, splits=splits)[0], output[0]
    )


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("empty", [-1, -300, -(2**31)])
def test_an_empty_sequence_gives_zeros(filled, device, splits, empty):
    positions = torch.tensor([empty, 3], dtype=torch.int32, device=device)
    output = assert_same(*filled(2, 2, 1, 64, 80, (4, 4)), positions, (4, 4), splits=splits)
    assert not output[0].any() and output[1].any()


def test_no_sequence_gives_no_output(filled, device):
    positions = torch.zeros(0, dtype=torch.int32, device=device)
    assert assert_same(*filled(0, 2, 1, 64, 80, (4, 4)), positions, (4, 4)).shape == (0, 2, 64)


def test_bad_tensors_are_refused(filled, device):
    queries, keys, values = filled(1, 4, 2, 64, 8, (4, 4))
    narrow = filled(1, 4, 2, 16, 8, (4, 4))
    positions = torch.zeros(1, dtype=torch.int32, device=device)
    for match, arguments, changed in (
        ("not of 6", (queries, keys, values, positions), {"key_bits": 6}),
        ("codes of values", (queries, keys, values, positions), {"value_bits": 3}),
        ("positions is", (queries, keys, values, positions.long()), {}),
        ("queries .*contiguous", (queries.mT.contiguous().mT, keys, values, positions), {}),
        ("3 query heads cannot be shared", (queries[:, :3].contiguous(), keys, values, positions), {}),
        ("too narrow", (*narrow, positions), {}),
        ("power of two of programs", (queries, keys, values, positions), {"splits": 3}),
        ("query_factors", (queries, keys, values, positions), {"query_factors": queries}),
    ):
        with pytest.raises(ValueError, match=match):
            decode_attention(*arguments, **{"key_bits": 4, "value_bits": 4, **changed})
