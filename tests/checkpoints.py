"""Small checkpoints with random weights, made on the spot with transformers itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from models.quiet import quiet_transformers

CORPUS = [
    "The council voted on Tuesday to close the old bridge until the spring.",
    "Shares of the maker of turbines fell by a tenth after its warning on profits.",
    "A striker scored twice in the last minutes, and the visitors went home with nothing.",
    "Researchers trained a network to tell the songs of forty birds apart.",
    "Der Zug nach Norden fährt heute wegen Schnees nicht.",
    "新しい電車は来年の春から走ります。天气很好，我们去公园。",
    "รถไฟสายใหม่จะเปิดปีหน้า القطار الجديد يعمل في الربيع 😀 🚲",
]

Special = dict[str, str]
BERT_SPECIAL: Special = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
ROBERTA_SPECIAL: Special = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}


@dataclass(frozen=True)
class Family:
    """How a small model of a family is made."""

    algorithm: str
    """Of its tokenizer: wordpiece, byte-bpe or unigram."""
    special: Special
    double_separator: bool = False
    types: bool = False
    """Whether its tokenizer gives token types."""
    config: tuple[tuple[str, Any], ...] = ()


FAMILIES = {
    "bert": Family("wordpiece", BERT_SPECIAL, types=True),
    "distilbert": Family("wordpiece", BERT_SPECIAL, config=(("dim", 32), ("hidden_dim", 48))),
    "electra": Family("wordpiece", BERT_SPECIAL, types=True, config=(("embedding_size", 16),)),
    "convbert": Family("wordpiece", BERT_SPECIAL, types=True, config=(("embedding_size", 32),)),
    "fnet": Family("unigram", BERT_SPECIAL, types=True),
    "mpnet": Family("wordpiece", ROBERTA_SPECIAL, double_separator=True),
    "roberta": Family("byte-bpe", ROBERTA_SPECIAL, double_separator=True),
    "xlm-roberta": Family("unigram", ROBERTA_SPECIAL, double_separator=True),
    "camembert": Family("unigram", ROBERTA_SPECIAL, double_separator=True),
    "deberta-v2": Family(
        "unigram",
        BERT_SPECIAL,
        types=True,
        config=(
            ("relative_attention", True),
            ("position_biased_input", False),
            ("pos_att_type", ["p2c", "c2p"]),
            ("position_buckets", 8),
            ("norm_rel_ebd", "layer_norm"),
            ("share_att_key", True),
        ),
    ),
    "modernbert": Family("byte-bpe", BERT_SPECIAL, config=(("global_attn_every_n_layers", 2),)),
}


@cache
def train(name: str) -> str:
    """Train a small tokenizer of a family on a few sentences in several scripts; its JSON.

    Training the same twice can number the tokens differently, hence once for all tests.
    """
    family = FAMILIES[name]
    specials = list(dict.fromkeys(family.special.values()))
    unknown = family.special["unk_token"]
    if family.algorithm == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer: Any = trainers.WordPieceTrainer(
            vocab_size=400, special_tokens=specials, show_progress=False
        )
    elif family.algorithm == "byte-bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=specials, unk_token=unknown, show_progress=False
        )
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    first, last = family.special["cls_token"], family.special["sep_token"]
    middle = f"{last} {last}" if family.double_separator else last
    second = 1 if family.types else 0
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {middle} $B:{second} {last}:{second}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)],
    )
    # Sentence-transformers ships tokenizers that truncate and pad by themselves.
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    return str(tokenizer.to_str())


def make_tokenizer(name: str, max_length: int) -> transformers.PreTrainedTokenizerFast:
    """The tokenizer of a family, as transformers wraps it."""
    family = FAMILIES[name]
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if family.types else [])]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(train(name)),
        model_max_length=max_length,
        model_input_names=names,
        **family.special,
    )


def save_checkpoint(
    path: Path,
    name: str = "bert",
    *,
    max_length: int = 32,
    positions: int | None = None,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Make a checkpoint folder of a family: `save_checkpoint(path, "bert", num_labels=3)`.

    Without labels it is a plain encoder.
    """
    family = FAMILIES[name]
    tokenizer = make_tokenizer(name, max_length)
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": positions or max_length + 2,
        "initializer_range": 0.3,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "type_vocab_size": 2 if family.types else 1,
        **dict(family.config),
        **config,
    }
    classifies = "num_labels" in config or "id2label" in config
    auto = AutoModelForSequenceClassification if classifies else AutoModel
    torch.manual_seed(seed)
    model = auto.from_config(AutoConfig.for_model(name, **settings)).eval()
    with quiet_transformers():
        model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
