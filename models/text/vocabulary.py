"""A tokenizer of one's own, trained on text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from models.errors import CorpusError

Kind = Literal["wordpiece", "bpe"]
"""WordPiece as BERT has it, or byte-level byte-pair encoding, which knows every text."""

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
"""Names of BERT's special tokens; they are the first entries of the vocabulary, in this order."""
CONTINUES = "##"
"""How WordPiece marks a piece that continues a word."""
BEGINS = "▁"
"""Marks the beginning of a word while pieces are looked for."""
MOST_CHARACTERS = 1000
"""Rarer ones are unknown to WordPiece."""
LONGEST_WORD = 100
"""Characters of a word beyond which WordPiece takes it for unknown, as BERT does."""


def train_tokenizer(
    texts: Iterable[str],
    *,
    kind: Kind = "wordpiece",
    vocabulary: int = 30_522,
    minimum: int = 2,
    lowercase: bool = True,
    length: int = 512,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on texts, which are read once.

    Args:
        vocabulary: most entries, special tokens included.
        minimum: how often a piece has to occur to be an entry.
        lowercase: whether case and accents are thrown away, as in BERT's uncased models.
        length: most tokens of an input, which the tokenizer's folder says.

    Raises:
        CorpusError: the texts have no words.
        ValueError: the vocabulary has no room for any.
    """
    if vocabulary <= len(SPECIAL):
        raise ValueError(f"a vocabulary of {vocabulary} has no room beside the special tokens")
    seen = False

    def watched() -> Iterable[str]:
        nonlocal seen
        for text in texts:
            seen = seen or bool(text.strip())
            yield text

    train = _wordpiece if kind == "wordpiece" else _byte_pairs
    tokenizer = train(watched(), vocabulary, minimum, lowercase)
    if not seen:
        raise CorpusError("the documents have no words to learn a vocabulary from")
    if len(tokenizer.get_vocab()) > vocabulary:
        raise ValueError(
            f"a vocabulary of {vocabulary} has no room for the characters alone: "
            f"{len(tokenizer.get_vocab()):,} entries or more"
        )
    tokenizer.add_special_tokens([AddedToken(one, special=True) for one in SPECIAL.values()])
    first, last = SPECIAL["cls_token"], SPECIAL["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **SPECIAL,
    )


def _wordpiece(texts: Iterable[str], vocabulary: int, minimum: int, lowercase: bool) -> Tokenizer:
    """WordPiece, whose entries are found by byte-pair encoding of words that begin with a mark.

    The library's own trainer for WordPiece gives another vocabulary each time.
    """
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    merging = Tokenizer(models.BPE())
    merging.normalizer = normalizer
    merging.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace(BEGINS)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=minimum,
        limit_alphabet=MOST_CHARACTERS,
        show_progress=False,
    )
    merging.train_from_iterator(texts, trainer)
    found = sorted(merging.get_vocab().items(), key=lambda entry: entry[1])
    characters = [piece for piece, _ in found if len(piece) == 1 and piece != BEGINS]
    within = [CONTINUES + one for one in characters if _joins(one)]
    merged = [
        piece.removeprefix(BEGINS) if piece.startswith(BEGINS) else CONTINUES + piece
        for piece, _ in found
        if len(piece) > 1
    ]
    least = [*SPECIAL.values(), *characters, *within]
    entries = list(dict.fromkeys([*least, *merged]))[: max(vocabulary, len(least))]
    tokenizer = Tokenizer(
        models.WordPiece(
            {piece: number for number, piece in enumerate(entries)},
            unk_token=SPECIAL["unk_token"],
            continuing_subword_prefix=CONTINUES,
            max_input_chars_per_word=LONGEST_WORD,
        )
    )
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUES)
    return tokenizer


def _joins(character: str) -> bool:
    """Whether a character may stand within a word, and is none by itself."""
    return len(pre_tokenizers.BertPreTokenizer().pre_tokenize_str("a" + character)) == 1


def _byte_pairs(texts: Iterable[str], vocabulary: int, minimum: int, lowercase: bool) -> Tokenizer:
    """Byte-pair encoding of the bytes of a text."""
    tokenizer = Tokenizer(models.BPE())
    steps = [normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]
    tokenizer.normalizer = normalizers.Sequence(steps if lowercase else [normalizers.NFC()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=minimum,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def continues_word(tokenizer: PreTrainedTokenizerFast) -> list[bool]:
    """Whether each entry of the vocabulary is a piece that continues a word, by its id."""
    byte_level = isinstance(tokenizer.backend_tokenizer.model, models.BPE)
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = set(tokenizer.all_special_tokens)
    return [
        piece not in special
        and (not piece.startswith("Ġ") if byte_level else piece.startswith(CONTINUES))
        for piece in pieces
    ]
