"""Examples of a corpus: what a model is to see, and what to predict."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from models.text.tokenized import TokenizedCorpus, write_tokenized
from models.text.vocabulary import train_tokenizer
from models.training.pretraining_data import (
    IGNORED,
    PretrainingData,
    share_of_commonest,
)
from tests.checkpoints import CORPUS

LENGTH = 24


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(CORPUS * 5, vocabulary=300)


def tokenized(
    folder: Path, tokenizer: PreTrainedTokenizerFast, documents: Sequence[Sequence[str]]
) -> TokenizedCorpus:
    return write_tokenized(
        folder,
        (
            [tokenizer(one, add_special_tokens=False).input_ids for one in text]
            for text in documents
        ),
    )


@pytest.fixture
def corpus(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> TokenizedCorpus:
    return tokenized(tmp_path, tokenizer, [CORPUS[:4], CORPUS[1:5], CORPUS[2:6]])


def data_of(
    corpus: TokenizedCorpus, tokenizer: PreTrainedTokenizerFast, **options: Any
) -> PretrainingData:
    return PretrainingData(corpus, tokenizer, **{"length": LENGTH, "seed": 1, **options})


def test_a_batch_is_pairs_as_bert_reads_them(
    corpus: TokenizedCorpus, tokenizer: PreTrainedTokenizerFast
) -> None:
    data = data_of(corpus, tokenizer)
    examples = data.some(100)
    batch = data.batch(examples)
    assert batch.token_ids.shape[1] <= LENGTH
    for row, example in enumerate(examples):
        n_tokens = int(batch.input_mask[row].sum())
        ids, types = batch.token_ids[row].tolist(), batch.type_ids[row].tolist()
        for place, target in zip(batch.masked_positions[row], batch.targets[row], strict=True):
            if target != IGNORED:
                ids[place] = int(target)
        first, second = (corpus.tokens[piece].tolist() for piece in example.pair[:2])
        whole = [tokenizer.cls_token_id, *first, tokenizer.sep_token_id]
        whole += [*second, tokenizer.sep_token_id]
        assert ids == whole + [tokenizer.pad_token_id] * (len(ids) - n_tokens)
        behind = len(second) + 1
        assert types[:n_tokens] == [0] * (n_tokens - behind) + [1] * behind
        assert not any(types[n_tokens:])
        assert batch.not_next[row] == (not example.pair.follows)
    assert batch.tokens == int(batch.input_mask.sum())
    assert batch.masked == sum(max(1, round(0.15 * int(n))) for n in batch.input_mask.sum(1))


def test_masks_and_pairs_are_others_in_each_epoch_and_the_same_in_each_run(
    corpus: TokenizedCorpus, tokenizer: PreTrainedTokenizerFast
) -> None:
    data, again = data_of(corpus, tokenizer), data_of(corpus, tokenizer)
    first = data.some(100)
    second = list(islice(data.examples(1), data.count(1)))
    assert first == again.some(100)
    assert first != second
    assert data.batch(first).token_ids.equal(again.batch(first).token_ids)
    other = data_of(corpus, tokenizer, seed=2)
    assert other.some(100) != first
    # Of one example, too, whatever batch it is in.
    alone = data.batch([first[3]])
    assert (
        alone.targets[0].tolist() == data.batch(first).targets[3, : alone.targets.shape[1]].tolist()
    )


def test_a_run_goes_on_where_it_stood(
    corpus: TokenizedCorpus, tokenizer: PreTrainedTokenizerFast
) -> None:
    data = data_of(corpus, tokenizer)
    count = data.count()
    run = list(islice(data.examples(), 2 * count))
    assert {example.epoch for example in run} == {0, 1}
    for used in (0, 1, count - 1, count):
        rest = list(islice(data.examples(0, used), count))
        assert rest == run[used : used + count]


def test_whole_words_are_hidden_or_left(
    corpus: TokenizedCorpus, tokenizer: PreTrainedTokenizerFast
) -> None:
    data = data_of(corpus, tokenizer, whole_words=True, share=0.5)
    batch = data.batch(data.some(100))
    for row, targets in enumerate(batch.targets):
        chosen = {
            int(place)
            for place, target in zip(batch.masked_positions[row], targets, strict=True)
            if target != IGNORED
        }
        whole = batch.token_ids[row].clone()
        whole[batch.masked_positions[row]] = targets.where(targets != IGNORED, whole[0])
        pieces = tokenizer.convert_ids_to_tokens(whole.tolist())
        for place in chosen:
            if pieces[place].startswith("##") and not pieces[place - 1].startswith("["):
                assert place - 1 in chosen


def test_the_commonest_token_is_the_baseline(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    corpus = write_tokenized(tmp_path, [[[7, 7, 7, 8]], [[9]]])
    assert share_of_commonest(np.array([7, 7, 8, 9]), corpus) == 0.5


def test_what_cannot_be_is_refused(
    tmp_path: Path, corpus: TokenizedCorpus, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ValueError, match="4 tokens have no room"):
        data_of(corpus, tokenizer, length=4)
    empty = write_tokenized(tmp_path / "empty", [])
    with pytest.raises(ValueError, match="no two tokens"):
        next(data_of(empty, tokenizer).examples())
    assert data_of(empty, tokenizer).some(10) == []
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="the tokenizer has no cls_token"):
        data_of(corpus, bare)
