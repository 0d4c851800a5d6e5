"""Partitions of many keys at once are those of each key: whoever asks for a user asks the partition of its key."""

from __future__ import annotations

from aiokafka.partitioner import murmur2 as reference
from hypothesis import given
from hypothesis import strategies as st

from gateway.partitions import KEY_BYTES_MAX, KEYS_MIN, indices_of, murmur2_of
from streams.partitioner import partition_of

MANY = st.lists(st.binary(max_size=KEY_BYTES_MAX), min_size=KEYS_MIN, max_size=3 * KEYS_MIN)


@given(MANY)
def test_murmur2_of_many_equals_that_of_a_kafka_client(keys: list[bytes]) -> None:
    """All lengths beside each other: words that some keys have and others do not, and what is left of each."""
    assert murmur2_of(keys).tolist() == [reference(key) & 0xFFFFFFFF for key in keys]


@given(MANY | st.lists(st.binary(max_size=3 * KEY_BYTES_MAX)), st.integers(1, 100))
def test_each_key_is_in_its_partition_in_the_order_of_the_request(keys: list[bytes], partitions: int) -> None:
    """Few, many and long ones: each index once, in the partition that every producer chooses."""
    found = indices_of(keys, partitions)
    assert len(found) == partitions
    assert all(indices == sorted(indices) for indices in found)
    placed = {index: partition for partition, indices in enumerate(found) for index in indices}
    assert placed == {index: partition_of(key, partitions) for index, key in enumerate(keys)}
