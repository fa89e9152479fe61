"""`bertstream settings`: what can be set, and what it is set to."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import SecretStr

from app.cli.console import add_row, out, print_json, table
from app.settings import PREFIX, Settings, load_settings


def settings(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead.")] = False,
) -> None:
    """Show every setting: its variable, type, default, present value and meaning."""
    current = load_settings()
    rows = [
        {
            "variable": f"{PREFIX}{name.upper()}",
            "type": _type_name(field.annotation),
            "default": _shown(field.default),
            "current": _shown(getattr(current, name)),
            "set": name in current.model_fields_set,
            "meaning": " ".join((field.description or "").split()),
        }
        for name, field in Settings.model_fields.items()
    ]
    if as_json:
        print_json(rows)
        return
    lines = table("variable", "current", "meaning (type, default)")
    lines.columns[0].no_wrap = True
    for row in rows:
        default = "none" if row["default"] is None else row["default"]
        add_row(
            lines,
            row["variable"],
            "" if row["current"] is None else str(row["current"]),
            f"{row['meaning']} ({row['type']}, {default})",
            style="bold" if row["set"] else None,
        )
    out.print(lines)
    out.print(
        f"Bold: set by the environment or by .env. Broker in use: {'; '.join(current.broker_urls)}",
        style="dim",
    )


_KINDS = {bool: "true | false", int: "whole number", float: "number", Path: "path", str: "text"}


def _type_name(kind: Any) -> str:
    """The type as a user would write a value of it."""
    if get_origin(kind) is Literal:
        return " | ".join(str(choice) for choice in get_args(kind))
    if get_origin(kind) is Annotated:
        return _type_name(get_args(kind)[0])
    choices = [choice for choice in get_args(kind) if choice is not NoneType]
    if choices:
        return _type_name(choices[0])
    return "secret" if kind is SecretStr else _KINDS.get(kind, str(kind))


def _shown(value: Any) -> Any:
    """The value as JSON has it; of a secret only that it is there."""
    if isinstance(value, SecretStr):
        return "********"
    return str(value) if isinstance(value, Path) else value
