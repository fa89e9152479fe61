"""Sizes of BERT by name, as configurations of transformers."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import BertConfig
from transformers.activations import ACT2FN


@dataclass(frozen=True, slots=True)
class Size:
    """How deep and how wide an encoder is; its feed-forward layers are four times as wide."""

    layers: int
    heads: int
    width: int


SIZES = {
    "nano": Size(4, 4, 256),
    "micro": Size(12, 8, 512),
    "base": Size(12, 12, 768),
    "large": Size(24, 16, 1024),
}
"""`base` and `large` are those of Devlin et al. 2019, section 3."""


def bert_config(
    size: str,
    *,
    vocabulary: int,
    length: int = 512,
    activation: str = "gelu",
    dropout: float = 0.1,
    pad_id: int = 0,
) -> BertConfig:
    """The configuration of a BERT.

    Args:
        size: one of `SIZES`.
        vocabulary: entries of the tokenizer's vocabulary.
        length: most tokens of an input, special tokens included.
        activation: of the feed-forward layers, as transformers names it.
        dropout: probability, of hidden states and of attention.
        pad_id: token id that fills an input up.

    Raises:
        ValueError: one line that says which of them cannot be.
    """
    if size not in SIZES:
        raise ValueError(f"size {size!r} is not one of {', '.join(SIZES)}")
    if vocabulary < 1:
        raise ValueError(f"a vocabulary has one entry or more, not {vocabulary}")
    if length < 1:
        raise ValueError(f"an input has one token or more, not {length}")
    if activation not in ACT2FN:
        raise ValueError(f"activation {activation!r} is not one of {', '.join(sorted(ACT2FN))}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is a probability from 0 up to 1, not {dropout}")
    if not 0 <= pad_id < vocabulary:
        raise ValueError(f"the padding's id {pad_id} is not in a vocabulary of {vocabulary}")
    chosen = SIZES[size]
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=chosen.width,
        num_hidden_layers=chosen.layers,
        num_attention_heads=chosen.heads,
        intermediate_size=4 * chosen.width,
        hidden_act=activation,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        max_position_embeddings=length,
        pad_token_id=pad_id,
    )
