"""Dead letters as lines for people and facts for programs; nothing in them reaches the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.text import Text

from app.cli.console import err, out
from app.printable import beginning, printable

if TYPE_CHECKING:
    from app.dead_letter_topic import Selection
    from app.dead_letters import DeadLetter
    from app.replay import Plan, Report

SNIPPET = 60
"""Characters of a message or value in a line."""


def print_rows(found: list[dict[str, Any]]) -> None:
    """A line for each, cut where the terminal ends."""
    rows = [
        (
            _clock(row["time"]),
            plain("{topic}-{partition}-{offset}".format(**row["source"])),
            plain(row["code"]),
            " · ".join(filter(None, _remarks(row))),
        )
        for row in found
    ]
    if rows:
        rows.insert(0, ("time", "request", "code", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(3)] if rows else []
    for n, (*cells, text) in enumerate(rows):
        start = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        style = "" if n else "bold"
        out.print(Text(f"{start}  {text}", style=style), no_wrap=True, overflow="ellipsis")


def _remarks(row: dict[str, Any]) -> Iterator[str]:
    if row["replayed_at"] is not None:
        yield f"replayed {_clock(row['replayed_at'])}"
    yield plain(row["message"], SNIPPET)
    yield "(value omitted)" if row["omitted"] else row["text"]


def print_counts(selection: Selection, shown: int, waiting: bool) -> None:
    """How many there are of each code, and how many of these have been replayed."""
    total, replayed = selection.codes.total(), selection.replayed.total()
    if not total:
        out.print("no dead letters")
        return
    parts = [counted(total), f"{replayed:,} replayed" if replayed else ""]
    out.print(", ".join(filter(None, parts)))
    for code, count in selection.codes.most_common():
        again = selection.replayed[code]
        out.print(
            f"  {plain(code)} {count:,}" + (f", {again:,} replayed" if again else ""),
            markup=False,
        )
    if shown < (total - replayed if waiting else total):
        err.print(f"shown: the newest {shown:,}; --limit shows more", style="dim")


def print_letter(letter: DeadLetter, replayed_at: float | None) -> None:
    """Everything about one."""
    key = "none" if letter.key is None else _text(letter.key)
    facts = {
        "dead letter": str(letter.place),
        "since": _clock(letter.time),
        "code": plain(letter.code),
        "message": plain(letter.message),
        "request": plain(str(letter.source)),
        "sent": _clock(letter.source_time),
        "id": plain(letter.request_id),
        "key": key,
        "replays": str(letter.replays),
        "replayed": "no" if replayed_at is None else _clock(replayed_at),
    }
    facts |= {
        f"header {plain(name)}": "none" if value is None else _text(value)
        for name, value in letter.headers
    }
    width = max(map(len, facts))
    # Not in a table, which would break long lines: they are to be copied.
    for name, text in facts.items():
        print(f"{name:<{width}}  {text}")
    if letter.omitted:
        print("value omitted: it was too large, and the request is gone")
    elif letter.value is None:
        print("no value")
    else:
        print(f"value, {len(letter.value):,} bytes:")
        print(_text(letter.value, keep="\n\t"))


def facts_of(letter: DeadLetter, replayed_at: float | None) -> dict[str, Any]:
    """Everything about one, for a program: bytes as text, with escapes where they are none."""
    described = letter.describe(0) | {"replayed_at": iso(replayed_at)}
    del described["text"]
    return described | {
        "time": iso(letter.time),
        "source_time": iso(letter.source_time),
        "key": None if letter.key is None else _decoded(letter.key),
        "headers": [
            [name, None if value is None else _decoded(value)] for name, value in letter.headers
        ],
        "value": None if letter.value is None else _decoded(letter.value),
    }


def print_report(plan: Plan, report: Report, dry_run: bool, max_replays: int) -> None:
    """What a replay has done, or would do, and what it left out."""
    if dry_run:
        out.print(f"{counted(plan.count)} would be replayed")
        for code, count in plan.selection.codes.most_common():
            left = count if plan.again else count - plan.selection.replayed[code]
            out.print(f"  {plain(code)} {left:,}", markup=False)
    else:
        out.print(f"{report.replayed:,} replayed")
    if plan.already_replayed and not plan.again:
        out.print(f"{plan.already_replayed:,} left out: replayed before (--again takes them too)")
    if plan.exhausted:
        out.print(
            f"{plan.exhausted:,} left out: replayed {max_replays} times or more (--max-replays)"
        )
    for reason, count in report.failed.most_common():
        err.print(f"{count:,} not replayed: {plain(reason)}", markup=False)


def counted(count: int) -> str:
    """`1 dead letter`, `2 dead letters`."""
    return f"{count:,} dead letter{'' if count == 1 else 's'}"


def _decoded(data: bytes) -> str:
    return data.decode(errors="backslashreplace")


def _text(data: bytes, keep: str = "") -> str:
    return printable(_decoded(data), keep=keep)


def plain(text: str, length: int | None = None) -> str:
    """The text in one line, safe for a terminal, cut after `length` characters."""
    return printable(text) if length is None else beginning(text, length)


def _clock(time_s: float) -> str:
    found = _datetime(time_s)
    return "unknown" if found is None else found.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def iso(time_s: float | None) -> str | None:
    """The time, for programs; in UTC."""
    found = None if time_s is None else _datetime(time_s)
    return None if found is None else found.isoformat(timespec="milliseconds")


def _datetime(time_s: float) -> datetime | None:
    """None for a time that no calendar has: senders set what they like."""
    try:
        return datetime.fromtimestamp(time_s, UTC)
    except (ValueError, OverflowError, OSError):
        return None
