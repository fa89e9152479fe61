"""Every family answers what transformers itself answers, in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from models.inference.registry import ModelRegistry
from models.inference.tasks import Document

FAMILIES = [
    "bert",
    "distilbert",
    "electra",
    "mpnet",
    "roberta",
    "xlm-roberta",
    "deberta-v2",
    "modernbert",
    "convbert",
    "fnet",
]
TEXTS = [
    "The old bridge",
    "Shares fell",
    "新しい電車",
    "A striker scored twice in the spring.",
    "😀",
]


def unlimited(folder: Path) -> Any:
    """The checkpoint's tokenizer, with the truncation and padding of its file switched off."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_classifier_answers_as_the_pipeline(family: str, save: Callable[..., Path]) -> None:
    folder = save(family, max_length=64, id2label={0: "World", 1: "Sports", 2: "Business"})
    engine = ModelRegistry.load({"m": str(folder)}, device="cpu", dtype="float32").engine()

    predictions = engine.predict([Document(text) for text in TEXTS])

    classify = pipeline("text-classification", model=str(folder), tokenizer=unlimited(folder))
    for text, prediction in zip(TEXTS, predictions, strict=True):
        expected = {row["label"]: row["score"] for row in classify(text, top_k=None)}
        assert list(prediction.scores) == list(expected)
        assert prediction.scores == pytest.approx(expected, abs=1e-5)
        assert (prediction.label, prediction.score) == next(iter(prediction.scores.items()))
        assert prediction.task == "text-classification"


@pytest.mark.parametrize("family", FAMILIES)
def test_pair_answers_as_the_pipeline(family: str, save: Callable[..., Path]) -> None:
    folder = save(family, max_length=64, num_labels=3)
    engine = ModelRegistry.load({"m": str(folder)}, device="cpu", dtype="float32").engine()

    # A short single text stands in the same batch, so that the pairs are padded and it is not.
    pairs = [Document("The old bridge", "a striker"), Document("Shares fell", "in the spring")]
    *predictions, single = engine.predict([*pairs, Document("Shares")])

    classify = pipeline("text-classification", model=str(folder), tokenizer=unlimited(folder))
    for document, prediction in zip(pairs, predictions, strict=True):
        rows = classify({"text": document.text, "text_pair": document.text_pair}, top_k=None)
        expected = {row["label"]: row["score"] for row in rows}
        assert prediction.scores == pytest.approx(expected, abs=1e-5)
        assert prediction.task == "sentence-pair"
    expected = {row["label"]: row["score"] for row in classify("Shares", top_k=None)}
    assert single.scores == pytest.approx(expected, abs=1e-5)
    assert single.task == "text-classification"


@pytest.mark.parametrize("family", FAMILIES)
def test_encoder_gives_the_mean_of_its_tokens(family: str, save: Callable[..., Path]) -> None:
    folder = save(family, max_length=64)
    engine = ModelRegistry.load({"m": str(folder)}, device="cpu", dtype="float32").engine()

    predictions = engine.predict([Document(text) for text in TEXTS])

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), unlimited(folder)
    for text, prediction in zip(TEXTS, predictions, strict=True):
        with torch.inference_mode():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        assert prediction.embedding == pytest.approx(hidden[0].mean(0).tolist(), abs=1e-5)
        assert prediction.task == "embedding"
        assert prediction.label is prediction.scores is prediction.labels is prediction.score


@pytest.mark.parametrize("family", FAMILIES)
def test_window_is_the_usable_positions(family: str, save: Callable[..., Path]) -> None:
    folder = save(family, max_length=10**30, positions=20, num_labels=2)
    engine = ModelRegistry.load({"m": str(folder)}, device="cpu", dtype="float32").engine()

    long = Document("The council voted to close the old bridge. " * 20)
    prediction = engine.predict([long])[0]

    numbered_from_padding = family in {"roberta", "xlm-roberta", "mpnet"}
    if numbered_from_padding:
        padding = AutoModelForSequenceClassification.from_pretrained(folder).config.pad_token_id
        assert engine.window == 20 - padding - 1
    else:
        assert engine.window == 20
    assert prediction.segments > 1
    assert sum(prediction.scores.values()) == pytest.approx(1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_close(family: str, dtype: str, save: Callable[..., Path]) -> None:
    folder = save(family, max_length=64, num_labels=3)
    exact = ModelRegistry.load({"m": str(folder)}, device="cpu", dtype="float32").engine()
    engine = ModelRegistry.load({"m": str(folder)}, device="cpu", dtype=dtype).engine()

    documents = [Document(text) for text in TEXTS]
    for full, half in zip(exact.predict(documents), engine.predict(documents), strict=True):
        assert half.scores == pytest.approx(full.scores, abs=0.1)
    # torch has no Fourier transform in half precision.
    assert engine.describe()["dtype"] == ("float32" if family == "fnet" else dtype)
