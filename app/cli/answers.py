"""What models say of the documents of a corpus: in this process, or through Kafka."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli.console import progress
from app.cli.outcomes import failure
from app.cli.registry import loaded_registry
from app.errors import BertstreamError
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.errors import InferenceError
    from models.inference.engine import Engine
    from models.inference.tasks import Prediction
    from models.text.corpora import LabelledDocument
    from models.training.evaluate import Evaluation
    from models.training.labelled import LabelledCorpus

CHUNK_DOCUMENTS = 256
FACTS = ("path", "version", "device", "dtype")
"""What is shown of a model."""
EVERY_LABEL = 1_000_000
"""As `top_k`: more labels than a model has."""


@dataclass
class Answers:
    """What was predicted for the documents of a corpus, in their order."""

    predicted: list[tuple[str, ...] | None]
    """The label of each, or its labels where they are `multi_label`; None: no prediction."""
    confidences: list[float]
    """Probability of each single label; 0 where there is none."""
    multi_label: bool = False
    labels: tuple[str, ...] = ()
    """The labels that the model is known to have, in its order where that is known."""
    errors: Counter[str] = field(default_factory=Counter)
    versions: set[str] = field(default_factory=set)
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    """Of the model, for the output."""
    failure: str = ""
    """What the last error said."""

    def fail(self, code: str, message: str) -> None:
        """Count a document without a prediction."""
        self.errors[code] += 1
        self.failure = message

    def measure(self, corpus: LabelledCorpus) -> Evaluation:
        """Hold them against the labels of the documents."""
        from models.training.evaluate import evaluate, evaluate_sets

        if self.multi_label:
            return evaluate_sets(corpus.labels, self.predicted, self.labels)
        single = [None if own is None else own[0] for own in self.predicted]
        expected = [label for (label,) in corpus.labels]
        return evaluate(expected, single, self.labels, self.confidences)


def offline_settings(model: str | None, dtype: str | None) -> Settings:
    """The settings with a single model: the given one, or else the default of several."""
    name, path = next(iter(load_settings().models.items()))
    overrides: dict[str, Any] = {"model": f"{name}={path}" if model is None else model}
    return load_settings(**overrides, **({} if dtype is None else {"dtype": dtype}))


def predict(settings: Settings, corpus: LabelledCorpus) -> Answers:
    """Predict in this process, as a worker with these settings would."""
    from models.errors import InferenceError
    from models.inference.tasks import Task

    answers = Answers([], [])
    with loaded_registry(settings) as registry:
        engine = registry.engine()
        facts = engine.describe()
        kinds = {Task.TEXT_CLASSIFICATION: False, Task.MULTI_LABEL_CLASSIFICATION: True}
        answers.multi_label = _several(corpus, facts["path"], kinds.get(facts["task"]))
        answers.labels = tuple(facts["labels"])
        corpus.require(answers.labels)
        answers.facts = {name: facts[name] for name in FACTS}
        engine.warm_up()
        started = time.perf_counter()
        for _, outcome in _outcomes(engine, settings, corpus.documents, "predicting"):
            if isinstance(outcome, InferenceError):
                answers.predicted.append(None)
                answers.confidences.append(0.0)
                answers.fail(outcome.code, str(outcome))
            else:
                answers.predicted.append(_labels(outcome.label, outcome.labels))
                answers.confidences.append(outcome.score or 0.0)
        answers.seconds = time.perf_counter() - started
    return answers


def embed(
    settings: Settings, documents: Sequence[LabelledDocument], data: Path
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Embed documents in this process: (n, width), and the facts of the model.

    Raises:
        BertstreamError: the model gives no embeddings, or not of every document.
    """
    import numpy as np

    from models.errors import InferenceError
    from models.inference.tasks import Task

    rows: list[Any] = []
    with loaded_registry(settings) as registry:
        engine = registry.engine()
        facts = engine.describe()
        if facts["task"] != Task.EMBEDDING:
            raise BertstreamError(
                f"{facts['path']} gives no embeddings (task {facts['task']}); "
                "leave --embeddings out"
            )
        for document, outcome in _outcomes(engine, settings, documents, "embedding"):
            if isinstance(outcome, InferenceError):
                raise BertstreamError(f"{data}, line {document.line}: {outcome}")
            rows.append(outcome.embedding)
    return np.array(rows, np.float32), {name: facts[name] for name in FACTS}


def _outcomes(
    engine: Engine, settings: Settings, documents: Sequence[LabelledDocument], doing: str
) -> Iterator[tuple[LabelledDocument, Prediction | InferenceError]]:
    """Predict documents as they are asked for, with a bar that says what is being done."""
    from models.inference.tasks import Document

    with progress(len(documents)) as display:
        task = display.add_task(doing, total=len(documents))
        for start in range(0, len(documents), CHUNK_DOCUMENTS):
            chunk = documents[start : start + CHUNK_DOCUMENTS]
            outcomes = engine.predict(
                [Document(document.text, document.text_pair, top_k=1) for document in chunk],
                batch_size=settings.batch_size,
                batch_tokens=settings.batch_tokens,
                threads=settings.threads,
            )
            yield from zip(chunk, outcomes, strict=True)
            display.advance(task, len(chunk))


async def ask(
    settings: Settings, corpus: LabelledCorpus, model: str | None, silence_s: float
) -> Answers:
    """Send the documents through Kafka and collect the responses."""
    from app.client import Client

    total = len(corpus.documents)
    answers = Answers([None] * total, [0.0] * total)
    async with Client(settings) as client:
        started = time.perf_counter()
        with progress(total) as display:
            task = display.add_task("asking the service", total=total)
            exchange = client.exchange(_requests(corpus, model), silence_s=silence_s)
            async with aclosing(exchange):
                async for document, response in exchange:
                    assert isinstance(document, dict)
                    display.advance(task)
                    if (failed := failure(response)) is not None:
                        answers.fail(*failed)
                        continue
                    name, version = str(response.get("model")), str(response.get("model_version"))
                    own = _labels(response.get("label"), response.get("labels"))
                    kind = None if own is None else response.get("label") is None
                    answers.multi_label = _several(corpus, name, kind)
                    answers.predicted[document["place"]] = own
                    answers.confidences[document["place"]] = float(response.get("score") or 0)
                    answers.versions.add(version)
                    answers.facts = {"name": name, "version": version}
                    if document["place"] == 0:
                        answers.labels = tuple(sorted(response.get("scores") or ()))
                        corpus.require(answers.labels)
        answers.seconds = time.perf_counter() - started
    return answers


def _requests(corpus: LabelledCorpus, model: str | None) -> Iterator[dict[str, Any]]:
    """The documents as requests; the first asks for all scores, which name the labels."""
    for place, document in enumerate(corpus.documents):
        yield {
            "text": document.text,
            "text_pair": document.text_pair,
            "id": document.id,
            "model": model,
            "top_k": 1 if place else EVERY_LABEL,
            "place": place,
        }


def _labels(label: str | None, labels: Sequence[str] | None) -> tuple[str, ...] | None:
    """What a prediction says: its one label, or any number; None: it has no such thing."""
    if label is not None:
        return (label,)
    return None if labels is None else tuple(labels)


def _several(corpus: LabelledCorpus, model: str, multi_label: bool | None) -> bool:
    """Whether a model may give several labels, which can be held against the documents'.

    Args:
        multi_label: None: it gives none at all.
    """
    if multi_label is None:
        raise BertstreamError(f"{model} gives no label to measure; evaluate a classifier")
    if corpus.multi_label and not multi_label:
        raise BertstreamError(
            f"{model} gives one label a document, those of {corpus.path} have `labels`"
        )
    return multi_label
