"""`bertstream tokenizer`: a tokenizer of one's own, trained on documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from app.cli.console import out, progress
from app.cli.text import DataOption, MoreData


def tokenizer(
    data: DataOption,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the tokenizer; a new one.")
    ],
    more: MoreData = None,
    kind: Annotated[
        Literal["wordpiece", "bpe"],
        typer.Option(help="wordpiece: as BERT; bpe: byte pairs, which know every text."),
    ] = "wordpiece",
    vocabulary: Annotated[int, typer.Option(min=6, help="Most entries.")] = 30_522,
    minimum: Annotated[
        int, typer.Option(min=1, help="How often a piece has to occur to be an entry.")
    ] = 2,
    lowercase: Annotated[
        bool, typer.Option("--lowercase/--cased", help="Throw case and accents away, or keep them.")
    ] = True,
    length: Annotated[int, typer.Option(min=5, help="Most tokens of an input.")] = 512,
) -> None:
    """Train a tokenizer on documents, for `bertstream pretrain` and for transformers."""
    from models.errors import BertstreamError
    from models.folders import check_output
    from models.text.corpora import read_texts
    from models.text.vocabulary import train_tokenizer

    check_output(output)
    with progress() as display:
        task = display.add_task("reading")
        trained = train_tokenizer(
            read_texts(
                [*data, *(more or [])],
                lambda done: display.update(task, description=f"reading, {done:,} documents"),
            ),
            kind=kind,
            vocabulary=vocabulary,
            minimum=minimum,
            lowercase=lowercase,
            length=length,
        )
    try:
        trained.save_pretrained(output)
    except OSError as error:
        raise BertstreamError(f"{output} cannot be written: {error.strerror or error}") from None
    out.print(f"{output}: {len(trained):,} entries", markup=False)
