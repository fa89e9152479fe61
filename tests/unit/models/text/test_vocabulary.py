"""Tokenizers trained on text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from models.errors import CorpusError
from models.text.sentences import split_sentences
from models.text.vocabulary import SPECIAL, Kind, continues_word, train_tokenizer
from tests.checkpoints import CORPUS

TEXTS = CORPUS * 5
KINDS: list[Kind] = ["wordpiece", "bpe"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_opens_elsewhere_and_puts_berts_tokens_around_a_pair(
    kind: Kind, tmp_path: Path
) -> None:
    train_tokenizer(TEXTS, kind=kind, vocabulary=600, length=64).save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.model_max_length == 64
    encoded = again("The council voted.", "A striker scored twice.")
    tokens = again.convert_ids_to_tokens(encoded["input_ids"])
    assert tokens[0] == "[CLS]"
    middle = tokens.index("[SEP]")
    assert tokens[-1] == "[SEP]"
    types = encoded["token_type_ids"]
    assert types == [0] * (middle + 1) + [1] * (len(tokens) - middle - 1)
    assert [again.convert_tokens_to_ids(token) for token in SPECIAL.values()] == [0, 1, 2, 3, 4]
    assert again.decode(encoded["input_ids"], skip_special_tokens=True).split()[:2] == [
        "the",
        "council",
    ]


def test_the_same_texts_give_the_same_entries() -> None:
    tokenizer = train_tokenizer(["aab aab", "aac", "bb!"] * 3)
    entries = sorted(tokenizer.vocab, key=tokenizer.vocab.__getitem__)
    letters = ["a", "b", "c"]
    assert entries[:12] == [*SPECIAL.values(), "!", *letters, *("##" + one for one in letters)]
    assert entries[12:] == ["##aa", "aa", "aab", "##bb", "bb", "aac"]


def test_rare_pieces_are_no_entries() -> None:
    texts = ["common word"] * 10 + ["rareness"]
    assert "common" in train_tokenizer(texts, minimum=5).vocab
    vocabulary = train_tokenizer(texts, minimum=5).vocab
    assert "rareness" not in vocabulary
    assert "rareness" in train_tokenizer(texts, minimum=1).vocab


def test_the_vocabulary_has_at_most_so_many_entries() -> None:
    assert len(train_tokenizer(TEXTS, vocabulary=200, minimum=1)) <= 200


@pytest.mark.parametrize("kind", KINDS)
def test_case_is_kept_where_it_is_to_be(kind: Kind) -> None:
    kept = train_tokenizer(["Berlin"] * 9, kind=kind, vocabulary=400, lowercase=False)
    dropped = train_tokenizer(["Berlin"] * 9, kind=kind, vocabulary=400)
    assert "B" in "".join(kept.tokenize("Berlin"))
    assert "B" not in "".join(dropped.tokenize("Berlin"))


def test_byte_pairs_know_every_text() -> None:
    tokenizer = train_tokenizer(["plain words"] * 9, kind="bpe", vocabulary=400, lowercase=False)
    for text in ("新しい電車", "🚲 naïve", "tab\tline\n"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids).strip() == text.strip()


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_that_continue_a_word_are_known(kind: Kind) -> None:
    tokenizer = train_tokenizer(TEXTS, kind=kind, vocabulary=400)
    continues = continues_word(tokenizer)
    ids = tokenizer("the visitors voted on turbines")["input_ids"]
    begins = [token_id for token_id in ids[1:-1] if not continues[token_id]]
    assert len(begins) == 5
    assert not any(continues[token_id] for token_id in tokenizer.all_special_ids)


@pytest.mark.parametrize("texts", [[], ["", "  \n"]])
def test_texts_without_words_are_refused(texts: list[str]) -> None:
    with pytest.raises(CorpusError, match="no words"):
        train_tokenizer(texts)


def test_a_vocabulary_needs_room() -> None:
    with pytest.raises(ValueError, match="no room"):
        train_tokenizer(TEXTS, vocabulary=5)


@pytest.mark.parametrize(
    ("language", "text", "sentences"),
    [
        ("en", "It closed. Dr. Smith (e.g. him) paid 3.5 dollars. Why?  ", 3),
        ("de", "Der Zug fährt z.B. am 3. Mai nicht. Er fällt aus.", 2),
        ("zh", "天气很好。我们去公园。", 2),
        ("en", " \n\n ", 0),
        ("en", "no full stop", 1),
    ],
)
def test_sentences(language: str, text: str, sentences: int) -> None:
    split: list[Any] = split_sentences(text, language)
    assert len(split) == sentences
    assert all(one == one.strip() for one in split)
    assert "".join("".join(split).split()) == "".join(text.split())
