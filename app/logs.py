"""Less of what Kafka's client logs: repeats while a broker is away, and credentials never."""

from __future__ import annotations

import logging
import time

from aiokafka.errors import KafkaError

REPEAT_AFTER_S = 30.0
LOGGERS = (
    "aiokafka",
    "aiokafka.cluster",
    "aiokafka.conn",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
    "aiokafka.producer.sender",
    "faust.topics",
)


class Throttle(logging.Filter):
    """Lets a warning or error through once in a while, and says how often it was held back.

    aiokafka retries ten times a second and logs each attempt, from several places. What comes
    already formatted, as Faust's does, is told by its place.
    """

    def __init__(self, repeat_after_s: float = REPEAT_AFTER_S) -> None:
        super().__init__()
        self._repeat_after_s = repeat_after_s
        self._held_back: dict[tuple[str, str], int] = {}
        self._shown_at: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged; it may be changed."""
        if record.levelno < logging.WARNING:
            return True
        key = record.name, str(record.msg) if record.args else str(record.lineno)
        now = time.monotonic()
        if now - self._shown_at.get(key, -self._repeat_after_s) < self._repeat_after_s:
            self._held_back[key] = self._held_back.get(key, 0) + 1
            return False
        self._shown_at[key] = now
        if held_back := self._held_back.pop(key, 0):
            record.msg = f"{record.getMessage()} ({held_back} more like it)"
            record.args = ()
        return True


class Unclaimed(logging.Filter):
    """Drops asyncio's tracebacks of Kafka errors that nobody looked at.

    aiokafka keeps several futures of one failure, of which we await one and tell of it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged."""
        error = record.exc_info[1] if record.exc_info else None
        unclaimed = "exception was never retrieved" in str(record.msg)
        return not (unclaimed and isinstance(error, KafkaError))


_UNCLAIMED = Unclaimed()


def throttle_kafka() -> None:
    """Have aiokafka, and asyncio of its futures, log less in this process."""
    throttle = Throttle()
    for name in LOGGERS:
        logging.getLogger(name).addFilter(throttle)
    logging.getLogger("asyncio").addFilter(_UNCLAIMED)
    # Where something is read without a group, as for the page, it says so at each reading.
    logging.getLogger("aiokafka.consumer.subscription_state").setLevel(logging.WARNING)


class Credentials(logging.Filter):
    """Leaves the body out of what aiokafka logs about authentication.

    At the level `debug` it logs every request, and the one of SASL PLAIN holds the password.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True; the record may be changed."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                f"{type(part).__name__}(hidden)" if "Sasl" in type(part).__name__ else part
                for part in record.args
            )
        return True


_CREDENTIALS = Credentials()


def hide_credentials() -> None:
    """Keep the credentials of this process's Kafka clients out of its logs; again does nothing."""
    logging.getLogger("aiokafka.conn").addFilter(_CREDENTIALS)
