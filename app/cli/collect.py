"""`bertstream collect`: the documents of a topic as a file, to train or to measure on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import orjson
import typer

from app.cli.console import err, out, progress, run
from app.errors import BertstreamError, RequestError
from app.settings import Settings, load_settings

OTHER_FIELDS = {"text_pair": str, "label": str | int, "id": str | int}
"""What is kept of a record besides its text, if it is of this type."""


def collect(
    output: Annotated[Path, typer.Option(metavar="FILE", help="A new file, as .jsonl.")],
    topic: Annotated[
        str | None, typer.Option(metavar="NAME", help="Instead of the request topic.")
    ] = None,
    field: Annotated[
        str, typer.Option(metavar="NAME", help="Of the text in the JSON object of a record.")
    ] = "text",
) -> None:
    """Write the documents of a topic into a file, as far as the topic goes now.

    Records are read without a consumer group: nothing is committed. What has no text is passed
    over and counted.
    """
    if output.suffix.lower() != ".jsonl":
        raise typer.BadParameter(f"--output {output}: give the file the ending .jsonl")
    if os.path.lexists(output):
        raise BertstreamError(f"{output} exists; choose another file, or remove it")
    settings = load_settings()
    topic = settings.request_topic if topic is None else topic
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        with partial.open("xb") as file:
            found = run(_collect(settings, topic, field, file))
        partial.rename(output)
    except OSError as error:
        raise BertstreamError(f"{output} cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
    if found.passed_over:
        err.print(
            f"passed over, without a text: {found.passed_over:,} records, the first at "
            f"{found.first}",
            markup=False,
        )
    out.print(f"{output}: {found.documents:,} documents of {topic}", markup=False)


@dataclass
class _Found:
    """What there was on a topic."""

    documents: int = 0
    passed_over: int = 0
    first: str = ""
    """Where the first of those lies."""


async def _collect(settings: Settings, topic: str, field: str, file: IO[bytes]) -> _Found:
    """Write the documents of a topic."""
    from app.reading import offsets_now, read, reader

    found = _Found()
    async with reader(settings) as consumer:
        ranges = await offsets_now(consumer, topic)
        total = sum(map(len, ranges.values()))
        with progress(total) as display:
            task = display.add_task("reading", total=total)
            # One after the other, so that the same topic gives the same file.
            for partition, offsets in sorted(ranges.items()):
                async for records in read(consumer, {partition: offsets}):
                    for record in records:
                        document = _document(record.value, field)
                        if document is None:
                            found.first = (
                                found.first or f"{topic}-{record.partition}-{record.offset}"
                            )
                            found.passed_over += 1
                            continue
                        file.write(orjson.dumps(document) + b"\n")
                        found.documents += 1
                    display.advance(task, len(records))
    return found


def _document(value: bytes | None, field: str) -> dict[str, Any] | None:
    from app.records import json_object

    try:
        content = json_object(value)
    except RequestError:
        return None
    text = content.get(field)
    if not isinstance(text, str) or not text.strip():
        return None
    others = {name: content.get(name) for name in OTHER_FIELDS}
    return {"text": text} | {
        name: other
        for name, other in others.items()
        if isinstance(other, OTHER_FIELDS[name]) and not isinstance(other, bool)
    }
