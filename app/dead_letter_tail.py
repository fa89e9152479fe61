"""The latest dead letters for the page: read while somebody looks at it, and no more of them."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from mode import Service

from app.dead_letter_topic import DeadLetterTopic
from app.dead_letters import DeadLetter
from app.printable import beginning
from app.reading import Ranges, offsets_now, reader
from app.settings import MEBIBYTE, Settings

LATEST = 20
FURTHEST_BACK = 1280
"""Records of a partition at most among which the latest dead letters are looked for."""
EVERY_S = 2.0
LOOKED_AT_S = 15.0
"""The page counts as looked at for so long after it has asked."""
MAX_READ_BYTES = 64 * MEBIBYTE
"""Values that are read at a time; of larger ones only some are shown."""
FETCH_BYTES = MEBIBYTE // 4
MAX_PARSED_BYTES = MEBIBYTE // 4
"""The id of a larger request is not looked for."""
TEXT_LENGTH = 160
MESSAGE_LENGTH = 300
ID_LENGTH = 120


class DeadLetterTail(Service):  # type: ignore[misc]
    """Keeps the latest dead letters, shortened, while `latest` is asked for now and then."""

    def __init__(self, settings: Settings, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.settings = settings
        self._asked = asyncio.Event()
        self._asked_at = 0.0
        self._records: int | None = None
        self._rows: dict[tuple[int, int], dict[str, Any]] = {}
        self._ends: dict[TopicPartition, int] = {}

    def latest(self) -> dict[str, Any]:
        """What the page shows; `latest` is None until it has been read for the first time."""
        self._asked_at = time.monotonic()
        self._asked.set()
        rows = sorted(self._rows.values(), key=lambda row: row["time"], reverse=True)
        return {
            "records": self._records,
            "latest": None if self._records is None else rows,
        }

    @Service.task  # type: ignore[untyped-decorator]
    async def _follow(self) -> None:
        while not self.should_stop:
            await self.wait(self._asked)
            self._asked.clear()
            try:
                async with reader(self.settings, fetch_bytes=FETCH_BYTES) as consumer:
                    while not self.should_stop and self._is_looked_at:
                        await self._update(consumer)
                        await self.sleep(EVERY_S)
            except Exception as error:  # whatever it is, a worker does not end over its page
                self.log.warning("dead letters cannot be read: %r", error)
                await self.sleep(EVERY_S)

    @property
    def _is_looked_at(self) -> bool:
        return time.monotonic() - self._asked_at < LOOKED_AT_S

    async def _update(self, consumer: AIOKafkaConsumer) -> None:
        """Read what has come, or the end of it where that is much."""
        name = self.settings.dead_letter_topic
        now = await offsets_now(consumer, name)
        if any(offsets.stop < self._ends.get(tp, 0) for tp, offsets in now.items()):
            self._ends, self._rows = {}, {}  # the topic was made anew
        topic = DeadLetterTopic(consumer, name, now)
        back = LATEST
        while True:
            await self._read(topic, self._end_of(now, back))
            # Marks lie among the dead letters, and what transactions leave behind.
            first = not self._ends and len(self._rows) < LATEST
            if not first or back >= FURTHEST_BACK or back >= max(map(len, now.values())):
                break
            back *= 4
        self._ends = {tp: offsets.stop for tp, offsets in now.items()}
        self._records = sum(map(len, now.values()))

    def _end_of(self, now: Ranges, back: int) -> Ranges:
        return {
            tp: range(max(offsets.start, offsets.stop - back, self._ends.get(tp, 0)), offsets.stop)
            for tp, offsets in now.items()
        }

    async def _read(self, topic: DeadLetterTopic, ranges: Ranges) -> None:
        size = 0
        async with aclosing(topic.read(ranges)) as reading:
            async for items in reading:
                for item in items:
                    if isinstance(item, DeadLetter):
                        size += len(item.value or b"")
                        self._rows[item.place.partition, item.place.offset] = _row(item)
                        continue
                    for (partition, offset), row in self._rows.items():
                        if partition == item.partition and item.covers(offset):
                            row["replayed_at"] = item.time
                self._keep_latest()
                if size > MAX_READ_BYTES:
                    return

    def _keep_latest(self) -> None:
        newest = sorted(self._rows.items(), key=lambda item: item[1]["time"], reverse=True)
        self._rows = dict(newest[:LATEST])


def _row(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter in at most some hundred characters."""
    small = len(letter.value or b"") <= MAX_PARSED_BYTES
    return {
        "time": letter.time,
        "code": beginning(letter.code, ID_LENGTH),
        "message": beginning(letter.message, MESSAGE_LENGTH),
        "id": beginning(letter.request_id, ID_LENGTH) if small else None,
        "source": letter.source.to_dict() | {"topic": beginning(letter.source.topic, ID_LENGTH)},
        "place": letter.place.to_dict(),
        "replays": letter.replays,
        "replayed_at": None,
        "value_bytes": None if letter.value is None else len(letter.value),
        "omitted": letter.omitted,
        "text": beginning(letter.value or b"", TEXT_LENGTH),
    }
