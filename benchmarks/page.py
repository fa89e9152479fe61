"""What every benchmark writes: figures with their spread, between two markers of a page."""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson

from app.kafka_jars import KAFKA_VERSION


def machine(kafka: bool = True) -> str:
    """This machine, without its name; and that Kafka runs on it, where it does."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({_processor()}), {memory_gib:.0f} GiB of memory, "
        f"{platform.system()}, Python {platform.python_version()}"
        + (f", Kafka {KAFKA_VERSION} on the same machine" if kafka else "")
    )


def spread(values: Iterable[float], digits: int) -> str:
    """The median, and the least and the most in brackets."""
    values = sorted(values)
    low, middle, high = values[0], statistics.median(values), values[-1]
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def times(these: Iterable[float], those: Iterable[float]) -> str:
    """How many times as much these are as those, round by round."""
    return spread([one / other for one, other in zip(these, those, strict=True)], 2)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column names what the figures of the others are of."""
    lines = [columns, ("---", *["---:"] * (len(columns) - 1)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_figures(page: Path, name: str, figures: str, kafka: bool = True) -> None:
    """Put figures of this machine between the two markers of that name.

    Raises:
        ValueError: the page has no such place.
    """
    begin, end = f"<!-- measured: {name} -->", f"<!-- end: {name} -->"
    text = page.read_text(encoding="utf-8")
    place = re.compile(rf"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    if not place.search(text):
        raise ValueError(f"{page} has no line {begin} with {end} after it")
    block = f"{begin}\nMeasured on {machine(kafka)}.\n\n{figures}\n{end}"
    page.write_text(place.sub(lambda _: block, text), encoding="utf-8")


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Let the user say where figures go."""
    parser.add_argument("--write", type=Path, metavar="PAGE", help="page that holds the figures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all rounds go, as JSON")


def publish(
    arguments: argparse.Namespace, name: str, text: str, rounds: Any, *, kafka: bool = True
) -> None:
    """Print figures, and put them where the user wants them.

    Args:
        arguments: with those of `add_outputs`.
        name: of the place in the page.
        text: the figures for a reader.
        rounds: what they are made of: anything of dataclasses.
    """
    print(f"\n{text}")
    if arguments.write:
        write_figures(arguments.write, name, text, kafka)
    if arguments.json:
        content = {"name": name, "machine": machine(kafka), "rounds": rounds}
        arguments.json.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.machine()
