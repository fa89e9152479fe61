"""`bertstream models`: what would be served."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.console import add_row, out, print_json, table
from app.cli.registry import loaded_registry
from app.settings import load_settings


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead.")] = False,
) -> None:
    """Load the configured models and show what they are."""
    with loaded_registry(load_settings()) as registry:
        described = registry.describe()
    if as_json:
        print_json(described)
        return
    lines = table(
        *("name", "version", "task", "labels", "window#", "parameters#"),
        *("device", "dtype", "engine", "path"),
    )
    for model in described:
        add_row(
            lines,
            f"{model['name']}{' (default)' if model['default'] else ''}",
            model["version"],
            model["task"],
            ", ".join(model["labels"] or []),
            f"{model['window']:,}",
            f"{model['parameters']:,}",
            model["device"],
            model["dtype"],
            model["engine"],
            str(model["path"]),
        )
    out.print(lines)
