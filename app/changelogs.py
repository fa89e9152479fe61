"""The changelogs of the tables: for whoever creates or reads them, without Faust."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.settings import Settings

KEEP_S = 3600.0
"""How long a window of throughput is kept."""
SEGMENT_S = 600.0
"""Kafka compacts a changelog, and deletes what is old, only in segments that are closed. With its
own 7 days a worker would read a million records before it begins."""


@dataclass(frozen=True, slots=True)
class Changelog:
    """The topic of one partition from which a table is restored."""

    table: str
    config: Mapping[str, str]

    def topic(self, settings: Settings) -> str:
        """The name that Faust gives it."""
        return f"{settings.app_id}-{self.table}-changelog"


_SEGMENTS = {"segment.ms": f"{SEGMENT_S * 1000:.0f}", "min.cleanable.dirty.ratio": "0.1"}

WINDOWS = Changelog(
    "throughput",
    _SEGMENTS | {"cleanup.policy": "compact,delete", "retention.ms": f"{KEEP_S * 1000:.0f}"},
)
"""Throughput by `model|worker` and window."""
TOTALS = Changelog("totals", _SEGMENTS | {"cleanup.policy": "compact"})
"""Throughput by model since the topics exist."""
CHANGELOGS = (WINDOWS, TOTALS)
