"""Segments cover every token, fit their room, and end at words where they can."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from models.text.segmentation import split, word_starts


def every_token(token: int) -> bool:
    return True


def no_token(token: int) -> bool:
    return token == 0


@given(
    n_tokens=st.integers(0, 400),
    room=st.integers(1, 60),
    overlap=st.integers(0, 80),
    starts=st.sets(st.integers(0, 400)),
)
def test_every_token_is_in_a_segment_that_fits(
    n_tokens: int, room: int, overlap: int, starts: set[int]
) -> None:
    segments = split(n_tokens, room, overlap, lambda token: token in starts)

    assert segments[0][0] == 0
    assert segments[-1][1] == n_tokens
    for start, end in segments:
        assert end - start <= room
        assert end > start or n_tokens == 0
    for (start, end), (next_start, next_end) in pairwise(segments):
        assert start < next_start <= end < next_end
        assert end - next_start <= min(overlap, room // 2)
        half = range(start + room // 2 + 1, start + room + 1)
        assert end in starts or (end == start + room and not starts.intersection(half))


@given(
    n_tokens=st.integers(0, 2000),
    room=st.integers(1, 60),
    overlap=st.integers(0, 80),
    starts=st.sets(st.integers(0, 2000)),
)
def test_work_is_linear(n_tokens: int, room: int, overlap: int, starts: set[int]) -> None:
    segments = split(n_tokens, room, overlap, lambda token: token in starts)
    assert len(segments) <= 2 + 4 * n_tokens / room


def test_a_document_that_fits_is_one_segment() -> None:
    assert split(10, 10, 3, every_token) == [(0, 10)]
    assert split(0, 10, 3, every_token) == [(0, 0)]


def test_words_stay_whole() -> None:
    # Words of three tokens; a room of ten has place for three of them.
    assert split(18, 10, 3, lambda token: token % 3 == 0) == [(0, 9), (6, 15), (12, 18)]


def test_a_word_longer_than_the_room_is_split_inside() -> None:
    assert split(25, 10, 2, no_token) == [(0, 10), (8, 18), (16, 25)]


def test_overlap_is_at_most_half_the_room() -> None:
    assert split(20, 8, 100, every_token) == [(0, 8), (4, 12), (8, 16), (12, 20)]


@pytest.mark.parametrize("text", ["the old bridge closed", "the  old\tbridge\nclosed"])
def test_words_begin_after_white_space_even_without_a_pre_tokenizer(text: str) -> None:
    letters = {letter: number for number, letter in enumerate(sorted(set(text)))}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    encoding = tokenizer.encode(text)
    starts_word = word_starts(text, encoding)
    starts = [token for token in range(len(encoding)) if starts_word(token)]
    for word in ("the", "old", "bridge", "closed"):
        assert text.index(word) in starts
        assert text.index(word) + 1 not in starts


def test_words_whose_token_holds_the_white_space_before_them() -> None:
    pieces = ["<unk>", "▁the", "▁o", "ld", "▁br", "id", "ge"]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    text = "the old bridge"
    encoding = tokenizer.encode(text)
    starts_word = word_starts(text, encoding)
    starts = [encoding.tokens[token] for token in range(len(encoding)) if starts_word(token)]
    assert starts == ["▁the", "▁o", "▁br"]


def test_words_are_those_of_the_pre_tokenizer() -> None:
    text = "新电车 well-known"
    letters = {letter: number for number, letter in enumerate(sorted(set(text)))}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    encoding = tokenizer.encode(text)
    starts_word = word_starts(text, encoding)
    starts = [encoding.offsets[token][0] for token in range(len(encoding)) if starts_word(token)]
    assert starts == [0, 4, 8, 9]


def test_a_mebibyte_is_split_fast() -> None:
    started = time.process_time()
    split(1024 * 1024, 254, 127, no_token)
    assert time.process_time() - started < 5
