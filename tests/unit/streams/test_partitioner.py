"""Our murmur2 against that of a Kafka client, and against the values of Kafka's own test."""

from __future__ import annotations

from aiokafka.partitioner import murmur2 as reference
from hypothesis import given
from hypothesis import strategies as st

from streams.partitioner import murmur2, partition_of


@given(st.binary(max_size=600))
def test_murmur2_equals_that_of_a_kafka_client(key: bytes) -> None:
    """A profile query asks the owner of murmur2(cookie): an event put elsewhere would be missing from the answer."""
    assert murmur2(key) == reference(key)


@given(st.text(max_size=50), st.integers(1, 1000))
def test_partition_equals_that_of_the_default_partitioner(cookie: str, partitions: int) -> None:
    """Foreign producers (Java, kafka-python, aiokafka) must put the same user into the same partition."""
    key = cookie.encode()
    assert partition_of(key, partitions) == (reference(key) & 0x7FFFFFFF) % partitions


def test_murmur2_equals_the_values_of_kafkas_own_test() -> None:
    """The three implementations could be wrong together; these are from Kafka's UtilsTest.testMurmur2."""
    expected = {
        b"21": -973932308,
        b"foobar": -790332482,
        b"a-little-bit-long-string": -985981536,
        b"a-little-bit-longer-string": -1486304829,
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        b"abc": 479470107,
    }
    assert {key: murmur2(key) for key in expected} == {key: value & 0xFFFFFFFF for key, value in expected.items()}
