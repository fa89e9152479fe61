"""Tables of what was done, kept in Kafka: they survive every worker."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import faust
from aiokafka.errors import KafkaError
from faust.tables.manager import TableManager as FaustTableManager
from faust.tables.recovery import Recovery as FaustRecovery
from faust.types import EventT
from mode import Service
from pydantic import TypeAdapter

from app.changelogs import KEEP_S, TOTALS, WINDOWS
from app.records import Throughput
from app.settings import Settings

RETRY_S = 1.0
WINDOW_S = 5.0
"""Width of a window of throughput."""
WINDOW_KEY = TypeAdapter(tuple[str, tuple[float, float]])
"""Of a window, as JSON: `model|worker` and from when to when, in Unix seconds."""
TOTAL_KEY = TypeAdapter(str)
"""Of a total, as JSON: the model."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of the app, written by the agent of the throughput topic alone."""

    windows: Any
    """Throughput by `model|worker`, in windows of `WINDOW_S`."""
    totals: Any
    """Throughput by model since the topics exist."""

    def add(self, record: Throughput) -> None:
        """Add what a worker did to its window and to the totals, where it is not in them yet.

        The topic is read at least once: after a restart some of its records come again.
        """
        window = self.windows[record.key].value()
        if window is None or not window.includes(record):
            self.windows[record.key] = record if window is None else window.plus(record)
        total = self.totals[record.model]
        if total is None or not total.includes(record):
            self.totals[record.model] = record if total is None else total.plus(record)


class Placed(Protocol):
    """A record of Kafka, Faust's or aiokafka's."""

    topic: str
    partition: int
    offset: int


class Unreadable:
    """Says of a topic, once, that it holds what cannot be read."""

    def __init__(self) -> None:
        self._topics: set[str] = set()

    def __call__(self, record: Placed, error: ValueError) -> None:
        """A record is passed over."""
        if record.topic not in self._topics:
            self._topics.add(record.topic)
            log.warning(
                "topic=%s partition=%d offset=%d is passed over, as is what comes like it: "
                "no throughput (%s)",
                *(record.topic, record.partition, record.offset, error),
            )


class ThroughputSchema(faust.Schema):  # type: ignore[misc]
    """Reads throughput; what cannot be read is None.

    Faust throws what it cannot read into the agent, which comes back and meets the next one.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._unreadable = Unreadable()

    def loads_value(self, app: Any, message: Any, **options: Any) -> Throughput | None:
        """The value of a record, or None."""
        try:
            return Throughput.read(message.value)
        except ValueError as error:
            self._unreadable(message, error)
            return None


class ChangelogSchema(ThroughputSchema):
    """Reads a changelog of throughput; a key that cannot be read is None."""

    def __init__(self, key: TypeAdapter[Any], **options: Any) -> None:
        super().__init__(**options)
        self._key = key

    def loads_key(self, app: Any, message: Any, **options: Any) -> Any:
        """The key of a record, or None."""
        try:
            return self._key.validate_json(message.key or b"")
        except ValueError:
            self._unreadable(message, ValueError("another key"))
            return None


class Table(faust.Table):  # type: ignore[misc]
    """Faust's table, restored from what can be read of its changelog."""

    def apply_changelog_batch(self, batch: Iterable[EventT]) -> None:
        """Take over some records; one without a value deletes its key."""
        super().apply_changelog_batch(
            [
                event
                for event in batch
                if event.key is not None
                and (event.value is not None or event.message.value is None)
            ]
        )


class Recovery(FaustRecovery):  # type: ignore[misc]
    """Faust's way from an assignment to the first record, begun again where Kafka is silent.

    Faust's own raises then, and so ends the worker.
    """

    @Service.task  # type: ignore[untyped-decorator]
    async def _restart_recovery(self) -> None:
        while not self.should_stop:
            try:
                await FaustRecovery._restart_recovery(self)
            except (KafkaError, TimeoutError) as error:
                self.log.warning("not ready for the partitions yet, trying again: %r", error)
                await self.sleep(RETRY_S)
                self.signal_recovery_start.set()


class TableManager(FaustTableManager):  # type: ignore[misc]
    """Faust's tables, without the second for which it waits for agents: ours are all there."""

    _recovery: Recovery | None

    @property
    def recovery(self) -> Recovery:
        """What reads the changelogs, and then lets the records of the partitions come."""
        if self._recovery is None:
            self._recovery = Recovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery

    async def on_start(self) -> None:
        """Read the changelogs, from the first assignment on."""
        await self._update_channels()
        await self.recovery.start()


def throughput_topic(app: faust.App, settings: Settings) -> Any:
    """The topic on which workers say what they did."""
    return app.topic(
        settings.throughput_topic,
        schema=ThroughputSchema(),
        key_type=bytes,
        key_serializer="raw",
        value_type=Throughput,
        partitions=1,
    )


def declare_tables(app: faust.App) -> Tables:
    """Declare the tables; their changelogs have one partition, as the throughput topic has."""
    windows = app.Table(
        WINDOWS.table,
        schema=ChangelogSchema(WINDOW_KEY),
        extra_topic_configs=WINDOWS.config,
        default=_nothing,
        key_type=str,
        value_type=Throughput,
        partitions=1,
        help="Throughput by model and worker.",
    ).tumbling(WINDOW_S, expires=KEEP_S)
    totals = app.Table(
        TOTALS.table,
        schema=ChangelogSchema(TOTAL_KEY),
        extra_topic_configs=TOTALS.config,
        default=_nothing,
        key_type=str,
        value_type=Throughput,
        partitions=1,
        help="Throughput by model since the beginning.",
    )
    return Tables(windows, totals)


def _nothing() -> None:
    """What a table holds for a key that was never written."""
