"""`bertstream predict`: predictions on this machine, without Kafka."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from app.cli.console import print_json, print_line
from app.settings import load_settings

if TYPE_CHECKING:
    from models.inference.engine import Engine

CHUNK_DOCUMENTS = 256


def predict(
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="Documents.")] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="Documents as .txt, .csv, .tsv or .jsonl; - is standard input, which is also "
            "read where nothing is given. May be given several times.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Checkpoint folder or hub id, instead of the settings'."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Most labels in `scores`.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each prediction as one line of JSON.")
    ] = False,
) -> None:
    """Predict documents on this machine, without Kafka."""
    from app.cli.documents import STDIN, read_files
    from app.cli.outcomes import line
    from app.cli.registry import loaded_registry

    files = file or []
    if not texts and not files:
        if sys.stdin.isatty():
            raise typer.BadParameter("give a TEXT, or --file FILE, or pipe documents in")
        files = [STDIN]
    settings = load_settings(**({} if model is None else {"model": model}))
    documents = chain(({"text": text} for text in texts or []), read_files(files))
    chunks = iter(lambda: list(islice(documents, CHUNK_DOCUMENTS)), [])
    first = next(chunks)  # what is wrong with a file is said before models take their time to load
    with loaded_registry(settings) as registry:
        engine = registry.engine(None)
        for chunk in chain([first], chunks):
            for document, response in zip(chunk, _predict(engine, chunk, top_k), strict=True):
                if as_json:
                    print_json(response)
                else:
                    print_line(line(response, document))


def _predict(
    engine: Engine, documents: list[dict[str, Any]], top_k: int | None
) -> Iterator[dict[str, Any]]:
    """Predictions and errors in the shape of responses, as far as these do not speak of Kafka."""
    from app.errors import EmptyText
    from models.inference.tasks import Document, Prediction

    outcomes = iter(
        engine.predict(
            [
                Document(document["text"], document.get("text_pair"), top_k=top_k)
                for document in documents
                if document["text"].strip()
            ]
        )
    )
    for document in documents:
        outcome = next(outcomes) if document["text"].strip() else EmptyText("'text' is blank")
        identity = {"id": document["id"]} if "id" in document else {}
        if isinstance(outcome, Prediction):
            yield identity | {"status": "ok"} | msgspec.structs.asdict(outcome)
        else:
            error = {
                "code": outcome.code,
                "message": str(outcome),
                "retryable": outcome.retryable,
            }
            yield identity | {"status": "error", "error": error}
