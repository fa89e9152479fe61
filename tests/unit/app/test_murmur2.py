"""Kafka's hash of keys: the same one by one and at once."""

from __future__ import annotations

from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from app.murmur2 import FEW, murmur2

PARTITIONS = list(range(12))


@given(st.lists(st.binary(max_size=40)), st.integers(0, 70), st.data())
def test_each_key_has_the_partition_that_kafkas_clients_give_it(
    keys: list[bytes], length: int, data: st.DataObject
) -> None:
    same = st.binary(min_size=length, max_size=length)
    keys += data.draw(st.lists(same, min_size=FEW, max_size=3 * FEW))
    keys = data.draw(st.permutations(keys))
    one_by_one = [DefaultPartitioner()(key, PARTITIONS, PARTITIONS) for key in keys]
    assert [number % len(PARTITIONS) for number in murmur2(keys)] == one_by_one


def test_no_keys_have_no_hashes() -> None:
    assert murmur2([]) == []
