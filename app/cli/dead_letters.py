"""`bertstream dead-letters`: what ended in an error, and back with it."""

from __future__ import annotations

import re
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.console import print_json, progress, run
from app.errors import CODES, BertstreamError
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.dead_letter_topic import Selection
    from app.dead_letters import DeadLetter, Filter
    from app.reading import Ranges
    from app.records import Source
    from app.replay import Plan, Report

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

dead_letters = typer.Typer(
    add_completion=False,
    help="Look at requests that ended in an error, and send them back.",
)

Codes = Annotated[
    list[str] | None, typer.Option("--code", metavar="CODE", help="Only of this code; repeatable.")
]
Partitions = Annotated[
    list[int] | None,
    typer.Option(
        "--partition", min=0, metavar="N", help="Only from this request partition; repeatable."
    ),
]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Only what ended in an error at this time or later: 2026-03-01, 2026-03-01T14:00, "
        "or so long ago: 90s, 15m, 2h, 3d, 1w.",
    ),
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Only what did so before.")]


@dead_letters.command("list")
def list_(
    codes: Codes = None,
    since: Since = None,
    until: Until = None,
    partitions: Partitions = None,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="Only what has not been replayed.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="Show so many at most.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
) -> None:
    """Show the newest dead letters, the newest first, and how many there are of each code."""
    from app.cli.dead_letter_lines import iso, print_counts, print_rows

    settings, wanted = load_settings(), _filter(codes, since, until, partitions)
    selection, found = run(_list(settings, wanted, limit, waiting))
    if as_json:
        for row in found:
            print_json(row | {"time": iso(row["time"]), "replayed_at": iso(row["replayed_at"])})
        return
    print_rows(found)
    print_counts(selection, len(found), waiting)


@dead_letters.command()
def show(
    place: Annotated[
        str,
        typer.Argument(
            metavar="PLACE",
            help="TOPIC-PARTITION-OFFSET of the request, or of the dead letter itself.",
        ),
    ],
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the bytes of the value, and nothing else.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show everything about one dead letter.

    A value that was too large to be kept is taken from the request, where that is still there.
    """
    from app.cli.dead_letter_lines import facts_of, print_letter
    from app.records import Source

    parts = re.fullmatch(r"(.+)-(\d{1,9})-(\d{1,18})", place)
    if parts is None:
        raise typer.BadParameter(f"{place!r} is no place such as bert-requests-3-1207")
    wanted = Source(parts[1], int(parts[2]), int(parts[3]))
    letter, replayed_at = run(_find(load_settings(), wanted))
    if raw:
        if letter.omitted:
            raise BertstreamError(f"the value of {place} was too large to be kept, and is gone")
        sys.stdout.buffer.write(letter.value or b"")
        sys.stdout.buffer.flush()
    elif as_json:
        print_json(facts_of(letter, replayed_at))
    else:
        print_letter(letter, replayed_at)


@dead_letters.command()
def replay(
    codes: Codes = None,
    since: Since = None,
    until: Until = None,
    partitions: Partitions = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Replay so many at most.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="TOPIC", help="Send them here, not to where they came from."),
    ] = None,
    max_replays: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Leave out what has been replayed so often."),
    ] = 3,
    again: Annotated[
        bool, typer.Option("--again", help="Also dead letters that have been replayed.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be replayed, and do nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Send dead letters back to the topic that they came from, each once.

    What ends in an error meanwhile is not sent. Ends with 1 where one could not be sent.
    """
    from app.cli.dead_letter_lines import print_report

    if not (yes or dry_run or sys.stdin.isatty()):
        raise typer.BadParameter("nobody can be asked here: add --yes, or --dry-run")
    settings, wanted = load_settings(), _filter(codes, since, until, partitions)
    options = {"again": again, "max_replays": max_replays}
    plan, report = run(_replay(settings, wanted, options, to, limit, dry_run, yes))
    if as_json:
        print_json(
            {
                "found": plan.count,
                "codes": plan.selection.codes,
                "already_replayed": plan.already_replayed,
                "replayed_too_often": plan.exhausted,
                "replayed": report.replayed,
                "failed": report.failed,
            }
        )
    else:
        print_report(plan, report, dry_run, max_replays)
    if report.failed:
        raise typer.Exit(1)


def moment(text: str, now: float) -> float:
    """Unix seconds of a time or of a duration before `now`.

    Raises:
        ValueError: it is neither.
    """
    ago = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if ago is not None:
        return now - float(ago[1]) * SECONDS[ago[2]]
    return datetime.fromisoformat(text.strip()).timestamp()


def _filter(
    codes: list[str] | None, since: str | None, until: str | None, partitions: list[int] | None
) -> Filter:
    from app.dead_letters import Filter

    for code in codes or ():
        if code not in CODES:
            raise typer.BadParameter(f"--code {code}: there are {', '.join(CODES)}")
    now = time.time()
    times = []
    for name, text in (("--since", since), ("--until", until)):
        try:
            times.append(None if text is None else moment(text, now))
        except (ValueError, OverflowError):
            raise typer.BadParameter(
                f"{name} {text}: neither a time such as 2026-03-01T14:00 nor a duration such as 2h"
            ) from None
    return Filter(frozenset(codes or ()), frozenset(partitions or ()), *times)


async def _list(
    settings: Settings, wanted: Filter, limit: int, waiting: bool
) -> tuple[Selection, list[dict[str, Any]]]:
    from app.cli.dead_letter_lines import SNIPPET
    from app.dead_letter_topic import DeadLetterTopic, Selection

    async with DeadLetterTopic.open(settings) as topic:
        ranges = await topic.since(wanted.since)
        total = _length(ranges)
        with progress(total) as display:
            task = display.add_task("reading", total=total)
            selection = await Selection.of(
                topic, ranges, wanted.admits, lambda read: display.advance(task, read)
            )
        newest = await topic.newest(selection, limit, replayed=not waiting, length=SNIPPET)
        return selection, newest


async def _find(settings: Settings, place: Source) -> tuple[DeadLetter, float | None]:
    from app.dead_letter_topic import DeadLetterTopic
    from app.replay import Requests

    async with DeadLetterTopic.open(settings) as topic:
        total = _length(topic.ranges)
        with progress(total) as display:
            task = display.add_task("looking", total=total)
            found = await topic.find(place, lambda read: display.advance(task, read))
    if found is None:
        raise BertstreamError(
            f"there is no dead letter of {place}; bertstream dead-letters list shows what there is"
        )
    letter, replayed_at = found
    if letter.omitted:
        async with Requests.open(settings) as requests:
            letter = await requests.complete(letter) or letter
    return letter, replayed_at


async def _replay(
    settings: Settings,
    wanted: Filter,
    options: dict[str, Any],
    to: str | None,
    limit: int | None,
    dry_run: bool,
    yes: bool,
) -> tuple[Plan, Report]:
    from app.cli.dead_letter_lines import counted, plain
    from app.dead_letter_topic import DeadLetterTopic
    from app.replay import Plan, Replay, Report

    async with DeadLetterTopic.open(settings, settled=True) as topic:
        total = _length(topic.ranges)
        with progress(total) as display:
            task = display.add_task("reading", total=total)
            plan = await Plan.of(
                topic, wanted, **options, advance=lambda read: display.advance(task, read)
            )
        count = plan.count if limit is None else min(plan.count, limit)
        if dry_run or not count:
            return plan, Report()
        if not yes:
            where = plain(to or ", ".join(sorted(plan.selection.topics)))
            typer.confirm(f"Replay {counted(count)} to {where}?", abort=True, err=True)
        async with Replay.open(settings, topic, to=to) as replay:
            with progress(count) as display:
                task = display.add_task("replaying", total=count)
                report = await replay.send(
                    plan, limit=limit, advance=lambda tried: display.advance(task, tried)
                )
            return plan, report


def _length(ranges: Ranges) -> int:
    return sum(map(len, ranges.values()))
