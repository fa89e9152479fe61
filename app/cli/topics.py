"""`bertstream topics`: what is on the topics, and what of it waits."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.console import add_row, out, print_json, run, table
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.topics import PartitionState


def topics(
    create: Annotated[bool, typer.Option("--create", help="Create the missing ones.")] = False,
    by_partition: Annotated[
        bool, typer.Option("--partitions", help="A line for each partition.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead.")] = False,
) -> None:
    """Show our topics: partitions, offsets, and how far the consumer group has read."""
    settings = load_settings()
    found = run(_topics(settings, create))
    if as_json:
        print_json(
            [
                {
                    "topic": topic,
                    "partitions": [
                        asdict(each) | {"lag": _lag(settings, topic, each)} for each in partitions
                    ],
                }
                for topic, partitions in found.items()
            ]
        )
        return
    lines = table("topic", "partitions#", "begin#", "end#", "committed#", "lag#")
    for topic, partitions in found.items():
        if not partitions:
            add_row(lines, topic, "missing", style="yellow")
        elif by_partition:
            for each in partitions:
                add_row(
                    lines,
                    topic,
                    *map(_number, (each.partition, each.begin, each.end)),
                    _number(each.committed),
                    _number(_lag(settings, topic, each)),
                )
        else:
            add_row(
                lines,
                topic,
                _number(len(partitions)),
                _number(sum(each.begin for each in partitions)),
                _number(sum(each.end for each in partitions)),
                _number(_total([each.committed for each in partitions])),
                _number(_total([_lag(settings, topic, each) for each in partitions])),
            )
    out.print(lines)
    if not all(found.values()):
        out.print("A worker creates what is missing, or bertstream topics --create.", style="dim")


async def _topics(settings: Settings, create: bool) -> dict[str, list[PartitionState]]:
    """The partitions by topic; none where the topic is missing."""
    from aiokafka import AIOKafkaConsumer
    from aiokafka.admin import AIOKafkaAdminClient

    from app.kafka import broker_errors, client_options, close, connect
    from app.topics import ensure_topics, partition_states, topic_states

    consumer = AIOKafkaConsumer(**client_options(settings))
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await connect(consumer, settings)
        await connect(admin, settings)
        states = await (ensure_topics(settings, create=True) if create else topic_states(settings))
        with broker_errors("the topics cannot be read"):
            return {
                state.name: await partition_states(settings, consumer, admin, state.name)
                if state.exists
                else []
                for state in states
            }
    finally:
        await close(consumer)
        await admin.close()


def _lag(settings: Settings, topic: str, state: PartitionState) -> int | None:
    """Records that wait for our group; None where it does not read the topic."""
    is_read = topic == settings.request_topic or state.committed is not None
    return state.lag if is_read else None


def _total(numbers: list[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _number(number: int | None) -> str:
    return "" if number is None else f"{number:,}"
