"""`bertstream watch`: responses as they come."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

import typer

from app.cli.console import err, out, print_json, print_line, run
from app.settings import Settings, load_settings


def watch(
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Begin with the oldest response kept.")
    ] = False,
    count: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="End after so many responses.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each response as one line of JSON.")
    ] = False,
) -> None:
    """Show the responses as they come, of whichever sender, until Ctrl-C."""
    settings = load_settings()
    try:
        run(_watch(settings, from_beginning, count, as_json))
    except KeyboardInterrupt:
        return


async def _watch(
    settings: Settings, from_beginning: bool, count: int | None, as_json: bool
) -> None:
    from app.cli.outcomes import line
    from app.client import Client

    async with (
        Client(settings) as client,
        aclosing(client.responses(from_beginning=from_beginning)) as responses,
    ):
        if not as_json and out.is_terminal:
            err.print(f"Responses on {settings.response_topic}; Ctrl-C ends.", style="dim")
        seen = 0
        async for response in responses:
            if as_json:
                print_json(response)
            else:
                print_line(line(response))
            seen += 1
            if seen == count:
                return
