"""What the subcommands that learn from text have in common: where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataOption = Annotated[
    list[Path],
    typer.Option(
        "--data",
        metavar="FILE [FILE...]",
        help="Documents as .txt, .jsonl, .csv, .tsv or .parquet; labels are passed over.",
    ),
]
MoreData = Annotated[list[Path] | None, typer.Argument(metavar="FILE", hidden=True)]
"""The files behind the first one of `--data`."""
