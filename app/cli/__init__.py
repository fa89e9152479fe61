"""The command line, `bertstream`: one module a subcommand, imported when it is asked for.

Exit codes: 0 done, 1 failed, 2 wrong usage or settings. An error is one line on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from app.errors import BertstreamError, SettingsError

COMMANDS = (
    "up",
    "send",
    "watch",
    "predict",
    "broker",
    "worker",
    "topics",
    "models",
    "train",
    "evaluate",
    "settings",
    "doctor",
)
"""Subcommands in the order of the help; each is the function of that name in `app.cli.<name>`."""


class Commands(TyperGroup):
    """The subcommands, each imported only to be run or to be described."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        # For "did you mean"; the commands themselves come from `get_command`.
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The subcommand of this name, or None."""
        if cmd_name not in COMMANDS:
            return None
        single = typer.Typer(add_completion=False)
        single.command(cmd_name)(getattr(import_module(f"app.cli.{cmd_name}"), cmd_name))
        return typer.main.get_command(single)


cli = typer.Typer(cls=Commands, add_completion=False)


@cli.callback(invoke_without_command=True)
def bertstream(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """BERT-family inference over Apache Kafka, without losing a record."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"bertstream {installed('bertstream')}")
    elif ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe that knows no UTF-8 must not end a run over one character.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        code = typer.main.get_command(cli).main(
            arguments, prog_name="bertstream", standalone_mode=False
        )
    except (typer.TyperException, BertstreamError) as error:
        code = _report(error)
    except typer.Abort:
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: typer.TyperException | BertstreamError) -> int:
    """Say in one line what is wrong, and return the exit code."""
    if isinstance(error, BertstreamError):
        message, code = str(error), 2 if isinstance(error, SettingsError) else 1
    else:
        message, code = error.format_message(), error.exit_code
        context = getattr(error, "ctx", None)
        if context is not None:
            message = f"{message.rstrip('.')} (see {context.command_path} --help)"
    sys.stdout.flush()
    print(f"bertstream: {' '.join(message.split())}", file=sys.stderr)
    return code
