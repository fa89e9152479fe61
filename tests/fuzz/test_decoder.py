"""The decoder under bytes of every kind; `make fuzz` goes on for minutes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz.check import CODES_OF_THE_DECODER, check
from tests.fuzz.mutations import CORPUS, Mutations

KEYS = st.none() | st.binary(max_size=8)


@pytest.mark.parametrize("name", sorted(file.name for file in CORPUS.iterdir()))
def test_what_is_kept(name: str) -> None:
    check((CORPUS / name).read_bytes())


def test_the_corpus_has_every_outcome() -> None:
    jobs = [check(None), *(check(file.read_bytes()) for file in CORPUS.iterdir())]
    codes = {getattr(job.request, "code", "ok") for job in jobs}
    assert codes == {"ok", *CODES_OF_THE_DECODER}


@settings(max_examples=500, derandomize=True, deadline=None)
@given(value=st.binary(max_size=300), key=KEYS)
@example(value=b'{"text": "a", "text": "b"}', key=b"\xff")
def test_any_bytes(value: bytes, key: bytes | None) -> None:
    check(value, key)


@settings(max_examples=500, derandomize=True, deadline=None)
@given(
    pieces=st.lists(
        st.sampled_from(
            [b'{"text":', b'"a"', b",", b'"id":', b'"top_k":', b"}", b"1", b"[", b"]", b" "]
        )
        | st.binary(max_size=4),
        max_size=12,
    ).map(b"".join),
    key=KEYS,
)
def test_pieces_of_requests(pieces: bytes, key: bytes | None) -> None:
    check(pieces, key)


def test_mutations_reach_every_code() -> None:
    mutations = Mutations(seed=1)
    codes = set()
    for record in itertools.islice(iter(mutations.record, object()), 20_000):
        job = check(record.value, record.key)
        codes.add(getattr(job.request, "code", "ok"))
    assert codes == {"ok", *CODES_OF_THE_DECODER}
