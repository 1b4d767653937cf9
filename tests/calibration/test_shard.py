import pytest
from hypothesis import given
from hypothesis import strategies as st

from altq.calibration.shard import WHOLE, Shard


@given(st.integers(0, 50), st.integers(1, 60))
def test_shards_are_a_partition_of_nearly_equal_parts(number, count):
    parts = [Shard(k, count).of(range(number)) for k in range(1, count + 1)]
    assert [item for part in parts for item in part] == list(range(number))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_it_is_written_as_it_is_read():
    assert Shard.parse("2/8") == Shard(2, 8) and str(Shard(2, 8)) == "2/8"
    assert Shard.parse("1/1") == WHOLE and WHOLE.of("abc") == "abc"


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2"])
def test_what_is_none_is_refused(text):
    with pytest.raises(ValueError, match="is no shard; write 2/8"):
        Shard.parse(text)
