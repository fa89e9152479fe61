"""What the subcommands have in common: where they write, and how they wait."""

from __future__ import annotations

import logging
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import orjson
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from app.printable import printable

T = TypeVar("T")

PIPE_WIDTH = 200
"""Columns of a table that no terminal shows."""


def _console(stderr: bool) -> Console:
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, width=None if terminal else PIPE_WIDTH)


out = _console(stderr=False)
"""Results."""
err = _console(stderr=True)
"""Progress and remarks, so that results can be piped."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on uvloop. Kafka's client is kept quiet: its errors reach us as errors."""
    import uvloop

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    result: T = uvloop.run(work)
    return result


def print_json(value: Any) -> None:
    """Print one line of JSON."""
    sys.stdout.write(orjson.dumps(value, default=str).decode() + "\n")
    sys.stdout.flush()


def table(*columns: str, title: str | None = None) -> Table:
    """A plain table; a column whose name ends in `#` holds numbers."""
    result = Table(title=title, box=None, title_justify="left", header_style="bold", pad_edge=False)
    for column in columns:
        number = column.endswith("#")
        result.add_column(column.rstrip("#"), justify="right" if number else "left", no_wrap=number)
    return result


def add_row(lines: Table, *cells: str, style: str | None = None) -> None:
    """Add a row of plain texts: what others wrote is no markup and reaches no terminal as such."""
    lines.add_row(*(Text(printable(cell)) for cell in cells), style=style)


def print_line(line: Text) -> None:
    """Print one line: cut where the terminal ends, whole where there is none."""
    if out.is_terminal:
        out.print(line, no_wrap=True, overflow="ellipsis")
    else:
        out.print(line, soft_wrap=True)


@contextmanager
def progress(total: int | None = None) -> Iterator[Progress]:
    """A progress display on stderr; where that is no terminal, nothing."""
    columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
    if total is not None:
        columns += [BarColumn(), MofNCompleteColumn()]
    with Progress(
        *columns, TimeElapsedColumn(), console=err, transient=True, disable=not err.is_terminal
    ) as display:
        yield display
