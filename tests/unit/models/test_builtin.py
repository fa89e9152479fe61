"""The classifier that comes with bertstream."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.inference.checkpoint import BUILTIN, BUILTIN_HEAD
from models.inference.registry import ModelRegistry
from models.inference.tasks import Document, Prediction
from models.training.evaluate import Evaluation, evaluate
from models.training.labelled import LabelledCorpus

LABELS = ["Business", "Sci/Tech", "Sports", "World"]


def predict(dtype: str, texts: list[str]) -> list[str | None]:
    registry = ModelRegistry.load({"agnews": BUILTIN}, device="cpu", dtype=dtype)
    outcomes = registry.engine().predict([Document(text) for text in texts])
    registry.close()
    return [outcome.label if isinstance(outcome, Prediction) else None for outcome in outcomes]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("The midfielder scored twice as the hosts won the cup final on penalties.", "Sports"),
        ("Shares fell after the bank warned that profits would be lower this quarter.", "Business"),
        ("The browser's new release closes a security hole in its password store.", "Sci/Tech"),
        ("Rebels and the government signed a ceasefire after weeks of fighting.", "World"),
    ],
)
def test_knows_its_topics(text: str, label: str) -> None:
    assert predict("float32", [text]) == [label]


@pytest.fixture(scope="module")
def corpus(agnews: Path) -> LabelledCorpus:
    return LabelledCorpus.read(agnews / "dev.jsonl")


@pytest.fixture(scope="module")
def float32(corpus: LabelledCorpus) -> Evaluation:
    return score("float32", corpus)


def score(dtype: str, corpus: LabelledCorpus) -> Evaluation:
    predicted = predict(dtype, [document.text for document in corpus.documents])
    return evaluate([label for (label,) in corpus.labels], predicted, LABELS)


def test_accuracy_on_documents_it_has_not_seen(corpus: LabelledCorpus, float32: Evaluation) -> None:
    assert float32.failed == 0
    assert float32.accuracy >= 0.87
    shipped = json.loads((BUILTIN_HEAD / "training.json").read_text())["evaluation"]
    assert shipped["sha256"] == corpus.describe()["sha256"]
    assert shipped["scores"]["accuracy"] == pytest.approx(float32.accuracy)


def test_in_bfloat16_it_knows_as_many_within_two(
    corpus: LabelledCorpus, float32: Evaluation
) -> None:
    """A CPU without the instructions emulates them, which may take minutes."""
    bfloat16 = score("bfloat16", corpus)
    assert bfloat16.failed == 0
    assert abs(bfloat16.accuracy - float32.accuracy) * len(corpus.documents) <= 2.001


def test_the_card_says_where_it_comes_from_and_what_it_may_be_used_for() -> None:
    card = (BUILTIN_HEAD / "README.md").read_text(encoding="utf-8")
    record = json.loads((BUILTIN_HEAD / "training.json").read_text(encoding="utf-8"))
    for words in ("non-commercial", "Gulli", "Zhang, Zhao", "NIPS 2015", "all-MiniLM-L6-v2"):
        assert words in card
    assert f"{record['evaluation']['scores']['accuracy']:.4f}" in card
    assert f"{record['evaluation']['scores']['macro_f1']:.4f}" in card
    assert record["evaluation"]["also_learned"] == 0
