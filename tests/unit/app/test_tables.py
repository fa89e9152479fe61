"""What workers did is counted once, also where the topic is read again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import NodeNotReadyError
from faust.types.tuples import Message

from app.changelogs import KEEP_S, TOTALS, WINDOWS
from app.records import Throughput
from app.settings import Settings
from app.tables import Recovery, Tables
from app.worker import BertstreamApp, create_app


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


@pytest.fixture
def app(tmp_path: Path) -> BertstreamApp:
    return create_app(Settings(app_id="ours", broker_url="kafka://127.0.0.1:1", data_dir=tmp_path))


def test_the_banner_of_faust_names_our_page(app: BertstreamApp) -> None:
    assert app.web_server_url == "http://127.0.0.1:6066"


def test_the_changelogs_have_the_names_and_configuration_that_they_are_created_with(
    app: BertstreamApp,
) -> None:
    tables = app.throughput_tables
    for table, changelog in ((tables.windows.table, WINDOWS), (tables.totals, TOTALS)):
        assert table.changelog_topic.get_topic_name() == changelog.topic(app.settings)
        assert table.changelog_topic.config == changelog.config
    assert tables.windows.table.changelog_topic.retention == KEEP_S


def test_tables_are_restored_from_what_can_be_read_of_a_changelog(
    app: BertstreamApp, caplog: pytest.LogCaptureFixture
) -> None:
    sound = throughput("w", 3, 100.0).dumps()
    in_windows = {b'["agnews|w",[5.0,10.0]]': [sound, b"{"], b'["agnews|w",[0.0,5.0]]': [None]}
    in_totals = {b'"agnews"': [sound, b'{"model":"agnews"}'], b'"old"': [sound, None]}
    strange: dict[bytes, list[bytes | None]] = {b'{"a":1}': [sound], b"\xff": [sound, None]}

    async def restore(table: Any, contents: dict[bytes, list[bytes | None]]) -> dict[Any, Any]:
        decode = table.changelog_topic.schema.compile(app)
        name = table.changelog_topic.get_topic_name()
        events = [
            await decode(Message(name, 0, 0, 0.0, 0, [], key, value, None), propagate=True)
            for key, values in contents.items()
            for value in values
        ]
        table.apply_changelog_batch(events)
        return dict(table.data.items())

    async def main() -> None:
        record = Throughput.read(sound)
        tables = app.throughput_tables
        windows = await restore(tables.windows.table, in_windows | strange)
        assert windows == {("agnews|w", (5.0, 10.0)): record}
        assert await restore(tables.totals, in_totals | strange) == {"agnews": record}

    asyncio.run(main())
    assert caplog.text.count("is passed over") == 2


@pytest.mark.parametrize("error", [NodeNotReadyError, TimeoutError])
def test_a_kafka_that_is_silent_after_an_assignment_is_asked_again(
    error: type[Exception], app: BertstreamApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.tables.RETRY_S", 0.0)

    async def main() -> None:
        recovery = app.tables.recovery
        asked = []

        async def ask(*_: object) -> None:
            asked.append(recovery.signal_recovery_start.is_set())
            if len(asked) < 3:
                raise error
            await recovery.stop()

        monkeypatch.setattr(recovery, "_build_highwaters", ask)
        recovery.signal_recovery_start.set()
        await Recovery._restart_recovery(recovery)
        assert asked == [False] * 3

    asyncio.run(asyncio.wait_for(main(), 10))
