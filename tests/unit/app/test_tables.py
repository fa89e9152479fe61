"""What workers did is counted once, also where the topic is read again."""

from __future__ import annotations

from typing import Any

from app.records import Throughput
from app.tables import Tables


class Window:
    """A window of a windowed table."""

    def __init__(self, record: Throughput | None) -> None:
        self._record = record

    def value(self) -> Throughput | None:
        return self._record


class Windows(dict[str, Any]):
    """A windowed table with one window a key."""

    def __getitem__(self, key: str) -> Window:
        return Window(self.get(key))


class Totals(dict[str, Throughput]):
    """A table that holds nothing for a key that was never written."""

    def __missing__(self, key: str) -> None:
        return None


def throughput(worker: str, offset: int, time: float, records: int = 10) -> Throughput:
    return Throughput(
        model="agnews",
        worker=worker,
        host="here",
        pid=1,
        page="",
        started_at=0.0,
        partitions=[0],
        devices=["cpu"],
        dtype="float32",
        time=time,
        seconds=1.0,
        records=records,
        offset=offset,
    )


def test_records_that_come_again_after_a_restart_are_not_counted_again() -> None:
    windows, totals = Windows(), Totals()
    tables = Tables(windows, totals)
    records = [throughput("ab"[n % 2], n, 100.0 + n) for n in range(6)]
    for record in [*records[:4], *records[1:]]:
        tables.add(record)
    assert totals["agnews"].records == 60
    assert windows["agnews|a"].value().records == windows["agnews|b"].value().records == 30


def test_a_clock_that_is_behind_loses_nothing() -> None:
    tables = Tables(Windows(), Totals())
    tables.add(throughput("a", 0, 100.0))
    tables.add(throughput("b", 1, 40.0))
    tables.add(throughput("b", 1, 40.0))
    assert tables.totals["agnews"].records == 20


def test_a_topic_that_was_created_anew_counts_on() -> None:
    tables = Tables(Windows(), Totals())
    tables.add(throughput("a", 7, 100.0))
    tables.add(throughput("a", 0, 101.0))
    assert tables.totals["agnews"].records == 20
