"""Workers as processes on a real broker: how they start, share, stop and come back."""

from __future__ import annotations

import asyncio
import signal
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError
from prometheus_client.parser import text_string_to_metric_families

from app.broker import EmbeddedBroker
from app.changelogs import CHANGELOGS, KEEP_S, WINDOWS
from app.group import GroupView
from app.settings import Settings
from app.topics import TopicState, ensure_topics
from tests.integration.conftest import Produced, StartWorker, Topics, run
from tests.workers import STOP_WITHIN_S, StartedWorker, eventually, service_settings

TEXT = "The striker scored twice as the home side won the cup final."


def requests(count: int, prefix: str = "r") -> list[Produced]:
    return [
        Produced(orjson.dumps({"text": f"{TEXT} Match {n}."}), key=f"{prefix}{n}".encode())
        for n in range(count)
    ]


def no_throughput() -> list[Produced]:
    """What may lie on the topic of throughput, or on a changelog, and cannot be read."""
    sound = orjson.dumps({"model": "agnews", "worker": "w", "time": time.time(), "seconds": 1.0})
    return [
        Produced(b"{", b"agnews|w"),
        Produced(b"\xff", b"\xff"),
        Produced(None, b"\xff"),
        Produced(orjson.dumps({"model": "agnews"}), b'"agnews"'),
        Produced(sound.replace(b"1.0", b'"long"'), b'["agnews|w",[5.0,10.0]]'),
    ]


def other_keys() -> list[Produced]:
    """Throughput under keys that a changelog has not."""
    value = orjson.dumps(
        {"model": "agnews", "worker": "w", "time": time.time(), "seconds": 1.0, "records": 9}
    )
    return [Produced(value, key) for key in (b"", b'{"a":1}', b"[1]", b"\xff")]


def places(responses: list[dict[str, Any]]) -> Counter[tuple[int, int]]:
    """Partition and offset of the requests, with how often each was answered."""
    return Counter((one["source"]["partition"], one["source"]["offset"]) for one in responses)


def duplicates(responses: list[dict[str, Any]]) -> dict[tuple[int, int], int]:
    return {place: n for place, n in places(responses).items() if n > 1}


def send_steadily(topics: Topics, settings: Settings, seconds: float) -> int:
    """Send requests, some hundred a second; returns how many."""
    sent = 0
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        topics.write(settings.request_topic, requests(25, f"steady-{sent}-"))
        sent += 25
        time.sleep(0.05)
    return sent


def counted_in_windows(topics: Topics, settings: Settings) -> int:
    """Records by the windows of throughput, each as it stands last in the table's changelog."""
    windows = {
        record.key: record.value
        for record in topics.read(WINDOWS.topic(settings), 0)
        if record.key.startswith(b'["agnews|')
    }
    return sum(orjson.loads(value).get("records", 0) for value in windows.values())


def partitions_by_worker(worker: StartedWorker) -> dict[str, list[int]]:
    status = worker.get("/api/status")[1] or {}
    return {one["name"]: one["partitions"] for one in status.get("workers", [])}


def shares(worker: StartedWorker, count: int) -> bool:
    """Whether `count` workers, each with partitions, hold all four partitions."""
    held = partitions_by_worker(worker)
    flat = sorted(partition for partitions in held.values() for partition in partitions)
    return len(held) == count and all(held.values()) and flat == [0, 1, 2, 3]


def test_two_workers_share_the_partitions_and_each_page_shows_both(
    settings: Settings, start_worker: StartWorker, topics: Topics
) -> None:
    settings = settings.model_copy(update={"session_timeout_s": 60.0})
    first = start_worker(settings)
    second = start_worker(settings)
    eventually(lambda: shares(first, 2) and shares(second, 2), 30, "both pages show both workers")
    topics.write(settings.request_topic, requests(200))
    responses = topics.responses(settings, 200)
    assert duplicates(responses) == {}
    eventually(
        lambda: all(
            sum(one["documents_per_s"] > 0 for one in worker.get("/api/status")[1]["workers"]) == 2
            for worker in (first, second)
        ),
        20,
        "both worked",
    )

    # One leaves under load, as `SIGTERM` asks, and the other goes on with everything.
    with ThreadPoolExecutor(1) as background:
        sending = background.submit(send_steadily, topics, settings, seconds=6.0)
        eventually(lambda: first.get("/api/status")[1]["throughput"]["now"]["records_per_s"], 20)
        assert second.stop() == 0
        # It has left the group, rather than been missed at the end of its session.
        everything = [0, 1, 2, 3]
        eventually(lambda: everything in partitions_by_worker(first).values(), 20, "all is ours")
        sent = 200 + sending.result()
    responses = topics.responses(settings, sent)
    assert len(responses) == sent
    assert duplicates(responses) == {}
    # Either has written the tables, or both by turns: no window began anew.
    eventually(lambda: counted_in_windows(topics, settings) == sent, 20, "the windows hold all")
    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(STOP_WITHIN_S) == 0


def test_two_services_with_one_throughput_topic_show_each_its_own(
    settings: Settings, start_worker: StartWorker, topics: Topics, tmp_path: Path
) -> None:
    other = service_settings(
        settings.bootstrap_servers[0],
        f"{settings.app_id}-other",
        tmp_path / "other",
        throughput_topic=settings.throughput_topic,
    )
    first = start_worker(settings)
    second = start_worker(other)

    def answer(worker: StartedWorker, count: int, in_all: int) -> None:
        def answered() -> bool:
            return int(worker.get("/api/status")[1]["throughput"]["total"]["records"]) >= in_all

        topics.write(worker.settings.request_topic, requests(count, f"{in_all}-"))
        eventually(answered, 20, f"{in_all} records are counted")

    # Each has read what the other had written once it counts what came after that.
    answer(first, 30, in_all=30)
    answer(second, 20, in_all=20)
    answer(first, 5, in_all=35)
    for worker, records in ((first, 35), (second, 20)):
        status = worker.get("/api/status")[1]
        assert status["throughput"]["total"]["records"] == records
        assert [one["pid"] for one in status["workers"]] == [worker.process.pid]
    assert (first.stop(), second.stop()) == (0, 0)


def test_a_stop_under_load_loses_nothing_and_repeats_nothing(
    settings: Settings, start_worker: StartWorker, topics: Topics
) -> None:
    worker = start_worker(settings)
    topics.write(settings.request_topic, requests(3_000))
    topics.read(settings.response_topic, 200, quiet_s=0.1)
    began = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - began < settings.drain_timeout_s + 10
    assert not (settings.data_dir / "workers" / f"{worker.process.pid}.json").exists()

    # What cannot be read of the tables keeps nobody from restoring the rest of them.
    for changelog in CHANGELOGS:
        topics.write(changelog.topic(settings), [*no_throughput(), *other_keys()])
    again = start_worker(settings)
    responses = topics.responses(settings, 3_000, within_s=120)
    assert len(responses) == 3_000
    assert duplicates(responses) == {}
    assert Counter(one["status"] for one in responses) == {"ok": 3_000}

    # What the first worker counted has survived it, and is counted on: totals and windows.
    topics.write(settings.request_topic, requests(5, "later"))
    eventually(
        lambda: again.get("/api/status")[1]["throughput"]["total"]["records"] == 3_005,
        20,
        "the totals hold both workers' records",
    )
    assert counted_in_windows(topics, settings) == 3_005
    assert "Error in recovery" not in again.log
    assert again.stop() == 0


def test_gaps_between_requests_lose_and_repeat_none(
    settings: Settings, start_worker: StartWorker, topics: Topics
) -> None:
    """Deleted at the beginning, aborted and the markers of transactions in between."""
    topic = settings.request_topic
    kept = topics.write(topic, requests(40, "old"))
    deleted = set(run(topics.delete_before(topic, 3)))
    run(
        topics.write_in_transactions(topic, [(requests(20, "a"), True), (requests(20, "b"), False)])
    )
    run(topics.write_in_transactions(topic, [(requests(20, "c"), True)]))
    wanted = {f"old{n}" for n, place in enumerate(kept) if place not in deleted}
    wanted |= {f"{prefix}{n}" for prefix in "ac" for n in range(20)}

    for more in ("later", "last"):
        worker = start_worker(settings)
        topics.write(topic, requests(5, more))
        wanted |= {f"{more}{n}" for n in range(5)}
        responses = topics.responses(settings, len(wanted))
        assert sorted(one["id"] for one in responses) == sorted(wanted)
        assert worker.stop() == 0


def test_a_compacted_topic_is_answered_once_as_far_as_it_is_left(
    settings: Settings, start_worker: StartWorker, topics: Topics
) -> None:
    """Of a key that was written again the first record is gone, out of the middle of its batch."""
    topic = settings.request_topic
    run(topics.compact(topic))
    written = topics.write(topic, requests(60))
    left = {*written} - {*written[::3]}
    left |= {*topics.write(topic, requests(60)[::3]), *topics.write(topic, requests(40, "more"))}

    def found() -> set[tuple[int, int]]:
        return {(one.partition, one.offset) for one in topics.read(topic, len(left))}

    eventually(lambda: found() == left, 60, "the broker has compacted the topic")

    for more in ("later", "last"):
        worker = start_worker(settings)
        left |= {*topics.write(topic, requests(20, more))}
        assert places(topics.responses(settings, len(left))) == Counter(left)
        assert worker.stop() == 0
        ends = {number: offset + 1 for number, offset in sorted(left)}
        assert run(topics.committed(settings)) == ends


def test_a_worker_waits_for_its_broker_and_answers_probes_meanwhile(
    tmp_path: Path, start_worker: StartWorker, kafka_jars: list[Path], names: str
) -> None:
    settings = service_settings("", names, tmp_path, broker_url=None, partitions=2)
    # Where the last embedded broker was, which does not run any more.
    settings.embedded_address_file.parent.mkdir()
    settings.embedded_address_file.write_text("127.0.0.1:1")
    worker = start_worker(settings, wait=False)
    eventually(lambda: worker.get("/healthz")[0] == 200, 30)

    def waiting() -> bool:
        status, found = worker.get("/readyz")
        return status == 503 and "waiting for broker" in str(found)

    eventually(waiting, 30, "not ready, with the reason")
    assert worker.get("/api/status")[1]["worker"]["state"] == "waiting for broker"
    broker = EmbeddedBroker(settings.embedded_address_file.parent)
    broker.start(port=0)
    try:
        worker.wait_until_ready()
        assert worker.stop() == 0
    finally:
        broker.stop()


def test_a_worker_that_still_waits_can_be_stopped(
    tmp_path: Path, start_worker: StartWorker, names: str
) -> None:
    settings = service_settings("127.0.0.1:1", names, tmp_path)
    worker = start_worker(settings, wait=False)
    eventually(lambda: "waiting for the broker at 127.0.0.1:1" in worker.log, 30)
    eventually(lambda: " engine, " in worker.log, 60)  # nothing stops while it loads a model
    assert worker.stop() == 0


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"model": "./no-such-folder"}, "no-such-folder"),
        ({"device": "cuda:7"}, "cuda"),
        ({"create_topics": False}, "bertstream topics --create"),
    ],
)
def test_a_worker_that_cannot_start_says_why_in_a_line(
    settings: Settings, start_worker: StartWorker, changed: dict[str, Any], complaint: str
) -> None:
    topics_of_nobody = {"request_topic": f"{settings.request_topic}-missing"}
    broken = settings.model_copy(update={**topics_of_nobody, **changed})
    worker = start_worker(Settings(**broken.model_dump(exclude_unset=True)), wait=False)
    assert worker.process.wait(60) == 1
    critical = [line for line in worker.log.splitlines() if "[CRITICAL]" in line]
    assert len(critical) == 1
    assert complaint in critical[0]
    assert "Traceback" not in worker.log


def test_topics_are_created_as_asked_and_existing_ones_respected(
    bootstrap_servers: str, names: str, tmp_path: Path, start_worker: StartWorker
) -> None:
    settings = service_settings(bootstrap_servers, names, tmp_path, partitions=3)
    created = run(ensure_topics(settings))
    assert all(one.created for one in created)
    assert [one.partitions for one in created] == [3, 3, 3, 1, 1, 1]
    # All that a worker needs is there: it need not create any.
    more = service_settings(bootstrap_servers, names, tmp_path, partitions=5, create_topics=False)
    assert run(ensure_topics(more))[0] == TopicState(more.request_topic, 3, 5, created=False)
    worker = start_worker(more)
    assert "exists with 3 partitions and keeps them (asked for: 5)" in worker.log
    assert [
        one["partition"]
        for one in eventually(lambda: worker.get("/api/status")[1]["partitions"], 20)
    ] == [0, 1, 2]
    assert " created, partitions=" not in worker.log
    assert worker.stop() == 0


@pytest.fixture(scope="module")
def replied(worker: StartedWorker, module_settings: Settings, topics: Topics) -> Settings:
    """The shared service, with a topic that requests may ask their answers on."""
    name = f"{module_settings.app_id}-replies-mine"
    run(topics.create(name, 1))
    return module_settings


def test_headers_come_back_and_replies_go_where_they_were_asked(
    replied: Settings, topics: Topics
) -> None:
    prefix = replied.app_id
    traced = [("traceparent", b"00-1-2-01"), ("tracestate", b"a=b"), ("correlation-id", b"c1")]
    value = orjson.dumps({"text": TEXT})

    def asking(topic: str) -> Produced:
        return Produced(value, b"k", [*traced, ("reply-topic", topic.encode()), ("other", b"x")])

    written = topics.write(
        replied.request_topic,
        [
            asking(f"{prefix}-replies-mine"),
            asking(f"{prefix}-replies-missing"),
            asking(replied.dead_letter_topic),
            Produced(value, None, traced),
        ],
    )
    [reply] = topics.read(f"{prefix}-replies-mine", 1)
    others = topics.read(replied.response_topic, 3)
    assert reply.key == b"k"
    assert sorted(reply.headers) == sorted([*traced, ("request-key", b"k")])
    assert orjson.loads(reply.value)["status"] == "ok"
    by_place = {
        (source["partition"], source["offset"]): dict(record.headers)
        for record in others
        if (source := orjson.loads(record.value)["source"])
    }
    assert set(by_place) == set(written[1:])
    missing, forbidden, plain = (by_place[place] for place in written[1:])
    assert b"no topic" in missing["reply-error"]
    assert b"does not match" in forbidden["reply-error"]
    assert "reply-error" not in plain
    assert "request-key" not in plain
    assert plain["traceparent"] == b"00-1-2-01"


def test_what_a_worker_reads_before_it_begins_stays_small(
    worker: StartedWorker, module_settings: Settings, topics: Topics
) -> None:
    prefix = module_settings.app_id
    windows = run(topics.config(f"{prefix}-throughput-changelog"))
    totals = run(topics.config(f"{prefix}-totals-changelog"))
    assert (windows["cleanup.policy"], totals["cleanup.policy"]) == ("compact,delete", "compact")
    assert int(windows["retention.ms"]) == KEEP_S * 1000
    for config in (windows, totals):
        assert int(config["segment.ms"]) <= KEEP_S * 1000


def test_what_cannot_be_read_keeps_no_worker_from_counting(
    worker: StartedWorker, module_settings: Settings, topics: Topics
) -> None:
    def counted() -> int:
        total = worker.get("/api/status")[1]["throughput"]["total"]
        return int(total["records"])

    names = [changelog.topic(module_settings) for changelog in CHANGELOGS]
    for name in (module_settings.throughput_topic, *names):
        topics.write(name, no_throughput())
    for name in names:
        topics.write(name, other_keys())
    before = counted()
    of_tomorrow = {
        "model": "another",
        "worker": "of tomorrow",
        "time": time.time(),
        "seconds": 1.0,
        "records": 7,
        "not_known_yet": {"a": [1]},
    }
    topics.write(module_settings.throughput_topic, [Produced(orjson.dumps(of_tomorrow))])
    topics.write(module_settings.request_topic, requests(5, "counted"))
    eventually(lambda: counted() == before + 5 + 7, 20, "everything is counted")
    assert "what was taken is read again" not in worker.log
    for name in (module_settings.throughput_topic, *names):
        assert worker.log.count(f"topic={name} ") == 1, worker.log
    assert worker.process.poll() is None


def test_metrics_are_prometheus(worker: StartedWorker, replied: Settings, topics: Topics) -> None:
    def metrics() -> dict[str, float]:
        with urllib.request.urlopen(f"{worker.url}/metrics", timeout=5) as response:
            families = list(text_string_to_metric_families(response.read().decode()))
        return {
            sample.name + str(sorted(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    before = metrics()
    topics.write(replied.request_topic, [*requests(5, "metric"), Produced(b"{", b"broken")])

    def counted() -> bool:
        now = metrics()
        ok = "bertstream_records_total[('code', 'ok'), ('model', 'agnews')]"
        bad = "bertstream_records_total[('code', 'invalid_json'), ('model', 'agnews')]"
        return now.get(ok, 0) - before.get(ok, 0) == 5 and now.get(bad, 0) >= 1

    eventually(counted, 20)
    assert metrics()["bertstream_ready[]"] == 1


def test_a_broker_that_goes_away_before_the_group_is_followed_is_waited_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.group.RETRY_S", 0.0)
    start, tries = AIOKafkaConsumer.start, []

    async def away_at_first(consumer: AIOKafkaConsumer) -> None:
        tries.append(consumer)
        if len(tries) < 3:
            raise KafkaConnectionError("away")
        await start(consumer)

    monkeypatch.setattr(AIOKafkaConsumer, "start", away_at_first)

    async def follow() -> None:
        group = GroupView(settings)
        await group.start()
        async with asyncio.timeout(30):
            while not group.partitions():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await group.stop()

    run(follow())
    assert len(tries) == 3
