"""`bertstream evaluate`: how well a classifier predicts labelled documents."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from app.cli.console import err, out, print_json, progress, run
from app.cli.options import AsJson, Model, ThroughKafka
from app.cli.outcomes import failure
from app.cli.registry import loaded_registry
from app.cli.scores import print_scores
from app.errors import BertstreamError
from app.printable import printable
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from models.training.labelled import LabelledCorpus

DType = Literal["auto", "float32", "bfloat16", "float16"]

CHUNK_DOCUMENTS = 256
EVERY_LABEL = 1_000_000
"""As `top_k`: more labels than a model has."""


@dataclass
class Answers:
    """What was predicted for the documents of a corpus, in their order."""

    predicted: list[str | None]
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


def evaluate(
    data: Annotated[
        Path, typer.Option(metavar="FILE", help="Labelled documents as .jsonl, .csv or .tsv.")
    ],
    model: Model = None,
    through_kafka: ThroughKafka = False,
    dtype: Annotated[
        DType | None, typer.Option(help="Precision, instead of the settings'.")
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(min=0.1, metavar="SECONDS", help="Longest silence with --through-kafka."),
    ] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Measure accuracy and F1 on labelled documents, offline or through Kafka."""
    if through_kafka and dtype is not None:
        raise typer.BadParameter("--dtype is the worker's to choose: leave it out, or go offline")
    from models.training.evaluate import evaluate as measure
    from models.training.labelled import LabelledCorpus

    corpus = LabelledCorpus.read(data)
    if through_kafka:
        answers = run(_ask(load_settings(), corpus, model, timeout))
    else:
        answers = _predict(_offline_settings(model, dtype), corpus)
    if answers.errors.total() == len(corpus.documents):
        raise BertstreamError(f"no document was predicted: {answers.failure}")
    scores = measure(corpus.labels, answers.predicted, answers.labels)
    rate = len(corpus.documents) / answers.seconds
    if as_json:
        print_json(
            {
                **scores.facts(),
                "errors": dict(answers.errors),
                "seconds": answers.seconds,
                "documents_per_s": rate,
                "data": str(data),
                "through_kafka": through_kafka,
                "model": answers.facts,
            }
        )
    else:
        print_scores(scores)
        facts = ", ".join(f"{name} {fact}" for name, fact in answers.facts.items())
        speed = f"{answers.seconds:.1f} s, {rate:,.0f} documents/s"
        out.print(printable(f"{speed}; {facts}"), markup=False)
    for remark in _remarks(corpus, answers):
        err.print(printable(remark), markup=False)


def _remarks(corpus: LabelledCorpus, answers: Answers) -> Iterator[str]:
    """What a reader of the scores must know."""
    if answers.errors:
        codes = ", ".join(f"{code} {count:,}" for code, count in answers.errors.most_common())
        yield f"documents without a prediction, counted as wrong: {codes}"
    if len(corpus.classes) == 1:
        yield (
            f"{corpus.path}: all documents have the label {corpus.labels[0]!r}; "
            "only the accuracy means something"
        )
    if len(answers.versions) > 1:
        yield f"the workers serve different models: versions {', '.join(sorted(answers.versions))}"


def _offline_settings(model: str | None, dtype: DType | None) -> Settings:
    """The settings with a single model: the given one, or else the default of several."""
    name, path = next(iter(load_settings().models.items()))
    overrides: dict[str, Any] = {"model": f"{name}={path}" if model is None else model}
    return load_settings(**overrides, **({} if dtype is None else {"dtype": dtype}))


def _predict(settings: Settings, corpus: LabelledCorpus) -> Answers:
    """Predict in this process, as a worker with these settings would."""
    from models.errors import InferenceError
    from models.inference.tasks import Document, Task

    answers = Answers([])
    with loaded_registry(settings) as registry:
        engine = registry.engine()
        facts = engine.describe()
        if facts["task"] != Task.TEXT_CLASSIFICATION:
            raise _no_label(facts["path"], facts["task"])
        answers.labels = tuple(facts["labels"])
        corpus.require(answers.labels)
        answers.facts = {key: facts[key] for key in ("path", "version", "device", "dtype")}
        engine.warm_up()
        total = len(corpus.documents)
        started = time.perf_counter()
        with progress(total) as display:
            task = display.add_task("predicting", total=total)
            for start in range(0, total, CHUNK_DOCUMENTS):
                chunk = corpus.documents[start : start + CHUNK_DOCUMENTS]
                for outcome in engine.predict(
                    [Document(document.text, document.text_pair, top_k=1) for document in chunk],
                    batch_size=settings.batch_size,
                    batch_tokens=settings.batch_tokens,
                    threads=settings.threads,
                ):
                    if isinstance(outcome, InferenceError):
                        answers.predicted.append(None)
                        answers.fail(outcome.code, str(outcome))
                    else:
                        answers.predicted.append(outcome.label)
                display.advance(task, len(chunk))
        answers.seconds = time.perf_counter() - started
    return answers


async def _ask(
    settings: Settings, corpus: LabelledCorpus, model: str | None, silence_s: float
) -> Answers:
    """Send the documents through Kafka and collect the responses."""
    from app.client import Client

    answers = Answers([None] * len(corpus.documents))
    total = len(corpus.documents)
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
                    if not isinstance(label := response.get("label"), str):
                        raise _no_label(name, str(response.get("task")))
                    answers.predicted[document["place"]] = label
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


def _no_label(model: str, task: str) -> BertstreamError:
    return BertstreamError(
        f"{model} gives no label to measure (task {task}); evaluate a classifier of one label "
        "a document"
    )
