"""The command line, `bertstream`: one module a subcommand, imported when it is asked for.

Exit codes: 0 done, 1 failed, 2 wrong usage or settings. An error is one line on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from app.errors import BertstreamError, SettingsError
from app.printable import one_line

COMMANDS = {
    "up": "Start everything on this machine and show documents go through it.",
    "send": "Send documents through Kafka and sum up their predictions.",
    "watch": "Show responses as they come.",
    "predict": "Predict documents on this machine, without Kafka.",
    "broker": "Run a one-node Apache Kafka on this machine.",
    "worker": "Run a worker.",
    "dead-letters": "Look at requests that ended in an error, and replay them.",
    "topics": "Show the topics, and what waits on them.",
    "collect": "Write the documents of a topic into a file.",
    "models": "Show the configured models.",
    "tokenizer": "Train a tokenizer on documents.",
    "pretrain": "Pretrain a BERT on documents.",
    "train": "Train a classifier on labelled documents.",
    "evaluate": "Measure a classifier on labelled documents, or two.",
    "export": "Export a model to ONNX for other runtimes.",
    "bench": "Measure documents a second and latency.",
    "settings": "Show every setting and its meaning.",
    "doctor": "Say what is wrong, and how to mend it.",
}
"""Subcommands, with a line for the help; each is what has its name in `app.cli.<name>`: a function,
or a Typer of further ones."""


class Command(TyperCommand):
    """A subcommand as the help lists it; its module is imported when it is called."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """A context of the real command."""
        name = str(self.name).replace("-", "_")
        command = getattr(import_module(f"app.cli.{name}"), name)
        if not isinstance(command, typer.Typer):
            single = typer.Typer(add_completion=False)
            single.command(self.name)(command)
            command = single
        return typer.main.get_command(command).make_context(*args, **kwargs)


class Commands(TyperGroup):
    """The subcommands, in their order."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, summary in COMMANDS.items():
            self.add_command(Command(name, help=summary))


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
    print(f"bertstream: {one_line(message)}", file=sys.stderr)
    return code
