"""The tokenizer's own special tokens are put where it would put them, whatever its kind."""

from __future__ import annotations

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from models.text.tokenizer import Tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "old", "bridge", "a"]


def word_tokenizer(post_processor: object = None) -> PreTrainedTokenizerFast:
    backend = tokenizers.Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if post_processor is not None:
        backend.post_processor = post_processor
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


POST_PROCESSORS = {
    "template": processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    ),
    "bert": processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
    "roberta": processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2)),
    "last only": processors.TemplateProcessing(
        single="$A [SEP]", pair="$A [SEP] $B [SEP]", special_tokens=[("[SEP]", 3)]
    ),
    "types that differ within one text": processors.TemplateProcessing(
        single="$A [SEP] [CLS]:2",
        pair="$A [SEP] $B:1 [SEP]:1 [CLS]:2",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    ),
    "none": None,
}


@pytest.mark.parametrize("name", POST_PROCESSORS)
def test_templates_give_what_the_tokenizer_gives(name: str) -> None:
    backend = word_tokenizer(POST_PROCESSORS[name]).backend_tokenizer
    tokenizer = Tokenizer(word_tokenizer(POST_PROCESSORS[name]))
    first, second = (encoding.ids for encoding in tokenizer.encode(["the old", "bridge"]))

    for template, ids, expected in (
        (tokenizer.single, (first,), backend.encode("the old")),
        (tokenizer.pair, (first, second), backend.encode("the old", "bridge")),
    ):
        token_ids, type_ids = template.fill(*ids)
        assert token_ids == expected.ids
        assert (type_ids or [0] * len(token_ids)) == expected.type_ids
        assert template.n_special == len(expected.ids) - sum(map(len, ids))


def test_truncation_and_padding_of_the_file_are_switched_off() -> None:
    fast = word_tokenizer()
    fast.backend_tokenizer.enable_truncation(3)
    fast.backend_tokenizer.enable_padding(length=12)
    encodings = Tokenizer(fast).encode(["the old bridge " * 100, "the"])
    assert [len(encoding) for encoding in encodings] == [300, 1]


def test_lower_casing() -> None:
    tokenizer = Tokenizer(word_tokenizer(), lowercase=True)
    assert tokenizer.encode(["THE Old"])[0].ids == [4, 5]


def test_template_is_found_even_where_common_texts_make_no_tokens() -> None:
    backend = tokenizers.Tokenizer(models.BPE(vocab={"x": 0, "y": 1, "[SEP]": 2}, merges=[]))
    backend.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", pair="$A [SEP] $B", special_tokens=[("[SEP]", 2)]
    )
    tokenizer = Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))
    assert tokenizer.single.fill([0, 1]) == ([0, 1, 2], None)


def test_a_tokenizer_that_makes_no_tokens_is_refused() -> None:
    backend = tokenizers.Tokenizer(models.BPE())
    with pytest.raises(ValueError, match="makes no tokens"):
        Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))
