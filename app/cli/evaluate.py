"""`bertstream evaluate`: how well a classifier predicts labelled documents, or two of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from app.cli.answers import Answers, ask, embed, offline_settings, predict
from app.cli.console import err, out, print_json, run
from app.cli.options import AsJson, Model, ThroughKafka
from app.cli.scores import print_comparison, print_embeddings, print_scores
from app.errors import BertstreamError
from app.printable import printable
from app.settings import load_settings

if TYPE_CHECKING:
    from models.training.evaluate import Evaluation
    from models.training.labelled import LabelledCorpus

DType = Literal["auto", "float32", "bfloat16", "float16"]
NO_PICTURES = "--pictures are for one label a document: leave them out"


def evaluate(
    data: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Labelled documents as .jsonl, .csv, .tsv or .parquet."),
    ],
    model: Model = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Another model beside it, with a test whether they differ."
        ),
    ] = None,
    embeddings: Annotated[
        bool,
        typer.Option(
            "--embeddings",
            help="Compare what two models embed instead, with --against; labels are optional.",
        ),
    ] = False,
    through_kafka: ThroughKafka = False,
    dtype: Annotated[
        DType | None, typer.Option(help="Precision, instead of the settings'.")
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(min=0.1, metavar="SECONDS", help="Longest silence with --through-kafka."),
    ] = 60.0,
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Draw confusion.png and calibration.png there."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure accuracy, F1 and calibration on labelled documents, offline or through Kafka."""
    if through_kafka and dtype is not None:
        raise typer.BadParameter("--dtype is the worker's to choose: leave it out, or go offline")
    if embeddings:
        if against is None or through_kafka or pictures is not None:
            raise typer.BadParameter(
                "--embeddings compares two models in this process: give --against, and neither "
                "--through-kafka nor --pictures"
            )
        _compare_embeddings(data, model, against, dtype, as_json=as_json)
        return
    from models.training.compare import compare_predictions
    from models.training.labelled import LabelledCorpus

    corpus = LabelledCorpus.read(data)
    if pictures is not None and corpus.multi_label:
        raise BertstreamError(NO_PICTURES)
    evaluations: list[tuple[Answers, Evaluation]] = []
    for name in (model, *([] if against is None else [against])):
        if through_kafka:
            answers = run(ask(load_settings(), corpus, name, timeout))
        else:
            answers = predict(offline_settings(name, dtype), corpus)
        if answers.errors.total() == len(corpus.documents):
            raise BertstreamError(f"no document was predicted: {answers.failure}")
        evaluations.append((answers, answers.measure(corpus)))
    (answers, scores), *others = evaluations
    compared = None
    if others:
        other, other_scores = others[0]
        compared = compare_predictions(
            [frozenset(own) for own in corpus.labels],
            [None if own is None else frozenset(own) for own in answers.predicted],
            [None if own is None else frozenset(own) for own in other.predicted],
        )
    if pictures is not None:
        _draw(scores, pictures)
    if as_json:
        facts = _facts(data, answers, scores, through_kafka=through_kafka)
        if compared is not None:
            facts["against"] = _facts(data, other, other_scores, through_kafka=through_kafka)
            facts["comparison"] = asdict(compared)
        print_json(facts)
    else:
        for number, (one, its_scores) in enumerate(evaluations):
            if number:
                out.print()
            print_scores(its_scores)
            out.print(printable(_speed(one)), markup=False)
        if compared is not None:
            out.print()
            print_comparison(compared)
    for one, _ in evaluations:
        for remark in _remarks(corpus, one):
            err.print(printable(remark), markup=False)


def _facts(
    data: Path, answers: Answers, scores: Evaluation, *, through_kafka: bool
) -> dict[str, Any]:
    return {
        **scores.facts(),
        "errors": dict(answers.errors),
        "seconds": answers.seconds,
        "documents_per_s": len(answers.predicted) / answers.seconds,
        "data": str(data),
        "through_kafka": through_kafka,
        "model": answers.facts,
    }


def _speed(answers: Answers) -> str:
    facts = ", ".join(f"{name} {fact}" for name, fact in answers.facts.items())
    rate = len(answers.predicted) / answers.seconds
    return f"{answers.seconds:.1f} s, {rate:,.0f} documents/s; {facts}"


def _draw(scores: Evaluation, folder: Path) -> None:
    try:
        from models.training.pictures import plot_calibration, plot_confusion
    except ImportError as error:
        raise BertstreamError(
            f"{error.name} is not installed: pip install 'bertstream[training]'"
        ) from None
    if scores.calibration is None:
        raise BertstreamError(NO_PICTURES)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        plot_confusion(scores, folder / "confusion.png")
        plot_calibration(scores.calibration, folder / "calibration.png")
    except OSError as error:
        raise BertstreamError(f"{folder} cannot be written: {error.strerror or error}") from None


def _compare_embeddings(
    data: Path, model: str | None, against: str, dtype: DType | None, *, as_json: bool
) -> None:
    from models.text.corpora import read_documents
    from models.training.compare import compare_embeddings

    documents = [document for document in read_documents(data) if document.text.strip()]
    names = [document.label for document in documents if document.label is not None]
    first, facts = embed(offline_settings(model, dtype), documents, data)
    second, other_facts = embed(offline_settings(against, dtype), documents, data)
    try:
        compared = compare_embeddings(
            first, second, names if len(names) == len(documents) else None
        )
    except ValueError as error:
        raise BertstreamError(f"{data}: {error}") from None
    if as_json:
        print_json({**asdict(compared), "data": str(data), "models": [facts, other_facts]})
        return
    print_embeddings(compared, str(facts["path"]), str(other_facts["path"]))


def _remarks(corpus: LabelledCorpus, answers: Answers) -> Iterator[str]:
    """What a reader of the scores must know."""
    if answers.errors:
        codes = ", ".join(f"{code} {count:,}" for code, count in answers.errors.most_common())
        yield f"documents without a prediction, counted as wrong: {codes}"
    if len(corpus.classes) == 1 and not corpus.multi_label:
        yield (
            f"{corpus.path}: all documents have the label {corpus.classes[0]!r}; "
            "only the accuracy means something"
        )
    if len(answers.versions) > 1:
        yield f"the workers serve different models: versions {', '.join(sorted(answers.versions))}"
