"""Sizes of BERT."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import BertModel

from models.nn.configurations import bert_config


@pytest.mark.parametrize(
    ("size", "layers", "heads", "width"),
    [("nano", 4, 4, 256), ("micro", 12, 8, 512), ("base", 12, 12, 768), ("large", 24, 16, 1024)],
)
def test_sizes(size: str, layers: int, heads: int, width: int) -> None:
    config = bert_config(size, vocabulary=1000, length=128, activation="relu", dropout=0.2)
    assert (config.num_hidden_layers, config.num_attention_heads) == (layers, heads)
    assert (config.hidden_size, config.intermediate_size) == (width, 4 * width)
    assert (config.vocab_size, config.max_position_embeddings) == (1000, 128)
    assert config.hidden_act == "relu"
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.2


def test_base_is_the_base_of_the_paper() -> None:
    model = BertModel(bert_config("base", vocabulary=30522))
    assert sum(weights.numel() for weights in model.parameters()) == 109_482_240


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "tiny"}, "'tiny' is not one of nano, micro, base, large"),
        ({"vocabulary": 0}, "a vocabulary has one entry or more, not 0"),
        ({"length": 0}, "an input has one token or more, not 0"),
        ({"activation": "step"}, "activation 'step' is not one of"),
        ({"dropout": 1.0}, "dropout is a probability from 0 up to 1, not 1.0"),
        ({"pad_id": 100}, "the padding's id 100 is not in a vocabulary of 100"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bert_config(**{"size": "nano", "vocabulary": 100, **options})
