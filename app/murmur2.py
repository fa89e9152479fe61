"""The hash by which Kafka's own clients choose the partition of a key, for many keys at once.

aiokafka computes it byte by byte in Python, which takes longer than everything else that is done
to send a record.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from aiokafka.partitioner import murmur2 as murmur2_of_one
from numpy.typing import NDArray

SEED = 0x9747B28C
M = np.uint32(0x5BD1E995)
FEW = 8
"""Keys of one length that are faster one by one."""


def murmur2(keys: Sequence[bytes]) -> list[int]:
    """Kafka's hash of each key, without the sign: modulo the partitions it is the key's."""
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        by_length[len(key)].append(place)
    hashes = [0] * len(keys)
    for length, places in by_length.items():
        if len(places) < FEW or not length:
            found = [murmur2_of_one(keys[place]) for place in places]
        else:
            found = _of_one_length(b"".join(keys[place] for place in places), length).tolist()
        for place, one in zip(places, found, strict=True):
            hashes[place] = one & 0x7FFFFFFF
    return hashes


def _of_one_length(joined: bytes, length: int) -> NDArray[np.uint32]:
    """The hashes (n_keys) of keys of `length` bytes, one behind the other."""
    data = np.frombuffer(joined, np.uint8).reshape(-1, length)
    whole = length - length % 4
    h = np.full(len(data), SEED ^ length, np.uint32)
    for k in np.ascontiguousarray(data[:, :whole]).view("<u4").T:
        k = k * M
        k ^= k >> np.uint32(24)
        k *= M
        h *= M
        h ^= k
    if length > whole:
        for place in range(whole, length):
            h ^= data[:, place].astype(np.uint32) << np.uint32(8 * (place - whole))
        h *= M
    h ^= h >> np.uint32(13)
    h *= M
    h ^= h >> np.uint32(15)
    return h
