"""Pairs of pieces of a tokenized corpus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.text.pairs import Pair, SecondPiece, pairs_of
from models.text.tokenized import TokenizedCorpus, write_tokenized

Document = list[list[int]]


def corpus_of(lengths: list[list[int]]) -> TokenizedCorpus:
    """Documents of sentences of these lengths; every token is another number."""
    sentences = np.cumsum([0, *(n for document in lengths for n in document)])
    documents = np.cumsum([0, *map(len, lengths)])
    return TokenizedCorpus(np.arange(sentences[-1], dtype=np.uint32), sentences, documents)


def owner(corpus: TokenizedCorpus, piece: slice) -> int:
    """The document of a piece, all of whose tokens are of one."""
    bounds = corpus.sentences[corpus.documents]
    [document] = {
        int(np.searchsorted(bounds, place, "right")) - 1 for place in range(piece.start, piece.stop)
    }
    return document


def all_pairs(
    corpus: TokenizedCorpus, room: int, second: SecondPiece = "next", seed: int = 0
) -> list[tuple[int, Pair]]:
    return [
        (document, pair)
        for document in range(len(corpus))
        for pair in pairs_of(
            corpus, document, np.random.default_rng([seed, document]), room=room, second=second
        )
    ]


corpora = st.lists(
    st.lists(st.integers(1, 30), min_size=1, max_size=8), min_size=1, max_size=5
).map(corpus_of)
kinds: st.SearchStrategy[SecondPiece] = st.sampled_from(("next", "order"))


@given(corpora, st.integers(2, 40), kinds, st.integers(0, 100))
def test_pieces_are_of_their_documents_and_have_room(
    corpus: TokenizedCorpus, room: int, second: SecondPiece, seed: int
) -> None:
    for document, pair in all_pairs(corpus, room, second, seed):
        lengths = [piece.stop - piece.start for piece in pair[:2]]
        assert min(lengths) >= 1
        assert sum(lengths) <= room
        owners = [owner(corpus, piece) for piece in (pair.first, pair.second)]
        if second == "order":
            assert owners == [document, document]
            assert pair.follows == (pair.first.start < pair.second.start)
        elif pair.follows:
            assert owners == [document, document]
            assert pair.first.start < pair.second.start
        else:
            assert owners[0] == document != owners[1]


@pytest.mark.parametrize("second", ["next", "order"])
def test_one_half_of_the_pairs_follow(second: SecondPiece) -> None:
    corpus = corpus_of([[10] * 40] * 30)
    follows = [pair.follows for _, pair in all_pairs(corpus, 40, second)]
    assert np.mean(follows) == pytest.approx(0.5, abs=0.1)


def test_where_nothing_is_cut_pieces_that_follow_stand_next_to_each_other() -> None:
    corpus = corpus_of([[4, 4, 4, 4]] * 20)
    for _, pair in all_pairs(corpus, 16, "order"):
        first, second = sorted(pair[:2], key=lambda piece: piece.start)
        assert first.stop == second.start


def test_no_sentence_of_a_document_is_left_out() -> None:
    corpus = corpus_of([[5] * 12, [5] * 12])
    starts = set()
    for document, pair in all_pairs(corpus, 20):
        pieces = pair[:2] if pair.follows else pair[:1]
        assert {owner(corpus, piece) for piece in pieces} == {document}
        starts |= {place // 5 for piece in pieces for place in range(piece.start, piece.stop)}
    assert starts == set(range(24))


def test_a_single_document_has_pairs_that_follow_alone() -> None:
    pairs = all_pairs(corpus_of([[6] * 10]), 24)
    assert pairs
    assert all(pair.follows for _, pair in pairs)


def test_a_lone_token_makes_no_pair() -> None:
    assert all_pairs(corpus_of([[1]]), 10) == []


def test_the_same_random_state_gives_the_same_pairs() -> None:
    corpus = corpus_of([[7] * 30] * 4)
    assert all_pairs(corpus, 30, seed=1) == all_pairs(corpus, 30, seed=1)
    assert all_pairs(corpus, 30, seed=1) != all_pairs(corpus, 30, seed=2)


def tokens_of(corpus: TokenizedCorpus) -> list[Document]:
    def sentence(number: int) -> NDArray[np.uint32]:
        return corpus.tokens[corpus.sentences[number] : corpus.sentences[number + 1]]

    return [
        [sentence(number).tolist() for number in range(start, stop)]
        for start, stop in zip(corpus.documents, corpus.documents[1:], strict=False)
    ]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    documents: list[Document] = [[[70_000, 2], [3]], [], [[]], [[], [4, 5, 6]]]
    corpus = write_tokenized(tmp_path / "new", iter(documents))
    assert len(corpus) == 2
    assert tokens_of(corpus) == [[[70_000, 2], [3]], [[4, 5, 6]]]
    assert tokens_of(TokenizedCorpus.open(tmp_path / "new")) == tokens_of(corpus)


def test_a_corpus_may_be_empty(tmp_path: Path) -> None:
    corpus = write_tokenized(tmp_path, [])
    assert len(corpus) == 0
    assert len(corpus.tokens) == 0
