"""Options that commands have in common."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Checkpoint folder or hub id, instead of the settings' default model; with "
        "--through-kafka the name of a model that is served.",
    ),
]
ThroughKafka = Annotated[
    bool, typer.Option("--through-kafka", help="Ask the running service instead of this process.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
