"""`bertstream send`: documents into the request topic, and their predictions back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, aclosing, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import orjson
import typer

from app.cli.console import add_row, out, print_json, progress, run, table
from app.errors import BertstreamError
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.cli.outcomes import Summary
    from app.client import Progress


def send(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE",
            help="Documents as .txt (one a line), .csv, .tsv or .jsonl; - is standard input, "
            "with a document or a JSON object a line.",
        ),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A document; may be given several times.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model to ask, if not the default one.")
    ] = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not wait for the predictions.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help="Write every response to this file."),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(min=0.1, metavar="SECONDS", help="Give up when no answer comes for so long."),
    ] = 60.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as one JSON object.")
    ] = False,
) -> None:
    """Send documents through Kafka, wait for their predictions, and sum them up.

    Where the documents come with labels, the share of predictions that equal them is shown.
    """
    if not files and not text:
        raise typer.BadParameter("give a FILE, or - for standard input, or --text TEXT")
    if no_wait and output:
        raise typer.BadParameter("--output needs the responses: leave out --no-wait")
    settings = load_settings()
    documents = _documents(files or [], text or [], model)
    if no_wait:
        sent = run(_send(settings, documents))
        if as_json:
            print_json({"sent": sent})
        else:
            out.print(f"{sent:,} sent to {settings.request_topic}")
        return
    run(_exchange(settings, documents, output, timeout, as_json))


async def _documents(
    files: list[Path], texts: list[str], model: str | None
) -> AsyncIterator[Mapping[str, Any]]:
    from app.cli.documents import stream

    extra = {} if model is None else {"model": model}
    for text in texts:
        yield {"text": text} | extra
    async for document in stream(files):
        yield {**document, **extra}


async def _send(settings: Settings, documents: AsyncIterator[Mapping[str, Any]]) -> int:
    from app.client import Client

    async with Client(settings) as client:
        return await client.send(documents)


async def _exchange(
    settings: Settings,
    documents: AsyncIterator[Mapping[str, Any]],
    output: Path | None,
    silence_s: float,
    as_json: bool,
) -> None:
    from app.cli.outcomes import Summary
    from app.client import Client, Progress

    counts = Progress()
    with _opened(output) as file, progress() as display:
        task = display.add_task("connecting to Kafka")

        def show(now: Progress) -> None:
            nonlocal counts
            counts = now
            display.update(task, description=f"{now.answered:,} of {now.sent:,} sent answered")

        async with Client(settings) as client:
            summary = Summary()
            answers = client.exchange(documents, progress=show, silence_s=silence_s)
            async with aclosing(answers):
                async for document, response in answers:
                    assert isinstance(document, Mapping)
                    summary.add(document, response)
                    if file is not None:
                        file.write(orjson.dumps(response, option=orjson.OPT_APPEND_NEWLINE))
    if as_json:
        print_json(_facts(counts, summary))
        return
    _print(counts, summary)
    if output is not None:
        out.print(f"responses: {output}", soft_wrap=True)


def _opened(output: Path | None) -> AbstractContextManager[IO[bytes] | None]:
    if output is None:
        return nullcontext()
    try:
        return output.open("wb")
    except OSError as error:
        raise BertstreamError(f"{output} cannot be written: {error.strerror}") from None


def _facts(counts: Progress, summary: Summary) -> dict[str, Any]:
    return {
        "sent": counts.sent,
        "answered": counts.answered,
        "duplicates": counts.duplicates,
        "errors": dict(summary.errors),
        "labelled": summary.labelled,
        "accuracy": summary.accuracy,
        "seconds": round(summary.seconds, 3),
        "documents_per_s": round(counts.answered / summary.seconds, 1),
    }


def _print(counts: Progress, summary: Summary) -> None:
    lines = table("", "#")
    lines.show_header = False
    add_row(lines, "sent", f"{counts.sent:,}")
    add_row(lines, "answered", f"{counts.answered:,}")
    add_row(lines, "duplicates", f"{counts.duplicates:,}")
    add_row(lines, "errors", f"{summary.errors.total():,}")
    for code, count in summary.errors.most_common():
        add_row(lines, f"  {code}", f"{count:,}")
    if summary.accuracy is not None:
        add_row(lines, "as expected", f"{summary.as_expected:,} of {summary.labelled:,}")
        add_row(lines, "accuracy", f"{summary.accuracy:.4f}")
    add_row(lines, "seconds", f"{summary.seconds:,.1f}")
    add_row(lines, "documents/s", f"{counts.answered / summary.seconds:,.0f}")
    out.print(lines)
