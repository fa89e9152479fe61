"""Tables of what was done, kept in Kafka: they survive every worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faust
from faust.tables.manager import TableManager as FaustTableManager

from app.records import Throughput

WINDOW_S = 5.0
"""Width of a window of throughput."""
KEEP_S = 3600.0
"""How long a window is kept."""
SEGMENT_S = 600.0
"""Kafka compacts a changelog, and deletes what is old, only in segments that are closed. With its
own 7 days a worker would read a million records before it begins."""


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of the app, written by the agent of the throughput topic alone."""

    windows: Any
    """Throughput by `model|worker`, in windows of `WINDOW_S`."""
    totals: Any
    """Throughput by model since the topics exist."""

    def add(self, key: str, record: Throughput) -> None:
        """Add what a worker did to its window and to the totals, where it is not in them yet.

        The topic is read at least once: after a restart some of its records come again.
        """
        window = self.windows[key].value()
        if window is None or not window.includes(record):
            self.windows[key] = record if window is None else window.plus(record)
        total = self.totals[record.model]
        if total is None or not total.includes(record):
            self.totals[record.model] = record if total is None else total.plus(record)


class TableManager(FaustTableManager):  # type: ignore[misc]
    """Faust's tables, without the second for which it waits for agents: ours are all there."""

    async def on_start(self) -> None:
        """Read the changelogs, from the first assignment on."""
        await self._update_channels()
        await self.recovery.start()


def declare_tables(app: faust.App) -> Tables:
    """Declare the tables; their changelogs have one partition, as the throughput topic has."""
    segments = {"segment.ms": int(SEGMENT_S * 1000), "min.cleanable.dirty.ratio": 0.1}
    windows = app.Table(
        "throughput",
        extra_topic_configs=segments,
        default=_nothing,
        key_type=str,
        value_type=Throughput,
        partitions=1,
        help="Throughput by model and worker.",
    ).tumbling(WINDOW_S, expires=KEEP_S)
    totals = app.Table(
        "totals",
        extra_topic_configs=segments,
        default=_nothing,
        key_type=str,
        value_type=Throughput,
        partitions=1,
        help="Throughput by model since the beginning.",
    )
    return Tables(windows, totals)


def _nothing() -> None:
    """What a table holds for a key that was never written."""
