import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from altq.quantizers.packing import pack_codes, packed_length, unpack_codes


@given(
    bits=st.integers(2, 8),
    rows=st.lists(st.integers(0, 3), max_size=2),
    length=st.integers(0, 37),
    seed=st.integers(0, 2**31),
)
def test_round_trip_is_exact_for_every_width_shape_and_length(bits, rows, length, seed):
    half = 1 << (bits - 1)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-half, half, (*rows, length), generator=generator, dtype=torch.int8)
    packed = pack_codes(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (*rows, packed_length(length, bits))
    unpacked = unpack_codes(packed, bits, length)
    assert unpacked.dtype == torch.int8
    assert torch.equal(unpacked, codes)


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_code_of_a_width_survives_alone_and_among_all(bits):
    codes = torch.arange(-(1 << (bits - 1)), 1 << (bits - 1), dtype=torch.int16).to(torch.int8)
    assert torch.equal(unpack_codes(pack_codes(codes, bits), bits, len(codes)), codes)
    assert torch.equal(unpack_codes(pack_codes(codes[:, None], bits), bits, 1), codes[:, None])


@pytest.mark.parametrize(
    ("bits", "codes", "expected"),
    [
        (8, [-128, 127], [0x80, 0x7F]),
        (5, [-16, 15], [0xF0, 0x0F]),
        (4, [1, -1, -8], [0xF1, 0x08]),
        (2, [0, 1, -2, -1, 1], [0b11100100, 0b01]),
        # low planes 1, 3, 0, 2, 1 in two bytes, then the signs 0, 1, 1, 0, 1
        (3, [1, -1, -4, 2, -3], [0b10001101, 0b01, 0b10110]),
    ],
)
def test_bytes_are_the_documented_ones(bits, codes, expected):
    packed = pack_codes(torch.tensor(codes, dtype=torch.int8), bits)
    assert packed.tolist() == expected
    assert unpack_codes(packed, bits, len(codes)).tolist() == codes


def test_packed_length_is_the_bits_rounded_up_by_plane():
    assert [packed_length(9, bits) for bits in range(2, 9)] == [3, 5, 5, 9, 9, 9, 9]
    assert packed_length(1536, 3) == 1536 * 3 // 8


def test_non_contiguous_codes_are_packed_as_they_read():
    codes = torch.randint(-4, 4, (6, 10), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    assert torch.equal(pack_codes(codes.T, 3), pack_codes(codes.T.contiguous(), 3))
    packed = pack_codes(codes, 3).T.contiguous().T
    assert torch.equal(unpack_codes(packed, 3, 10), codes)


@pytest.mark.parametrize("value", [-5, 4])
def test_a_code_that_does_not_fit_is_refused(value):
    with pytest.raises(ValueError, match="do not fit in 3 bits"):
        pack_codes(torch.tensor([0, value], dtype=torch.int8), 3)


def test_wrong_dtype_width_and_size_are_refused():
    codes = torch.zeros(4, dtype=torch.int8)
    with pytest.raises(ValueError, match="int8"):
        pack_codes(codes.to(torch.int32), 4)
    with pytest.raises(ValueError, match="16 bits cannot be packed"):
        pack_codes(codes, 16)
    packed = pack_codes(codes, 4)
    with pytest.raises(ValueError, match="takes 3 bytes"):
        unpack_codes(packed, 4, 5)
    with pytest.raises(ValueError, match="uint8"):
        unpack_codes(packed.view(torch.int8), 4, 4)
