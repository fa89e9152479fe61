"""Both ways of delivery on a real broker: what cannot be written, who may write, who is fenced."""

from __future__ import annotations

import asyncio
import gc
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import ProducerClosed
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.structs import ConsumerRecord, TopicPartition
from faust.events import Event
from faust.types import TP

from app.delivery import MAX_AWAITING_DELIVERY, AtLeastOncePublisher, Publisher
from app.envelopes import Envelope
from app.errors import EmptyText, Tombstone
from app.offsets import OffsetTracker, committed_offsets
from app.records import Job, Outcome, Request, Source
from app.settings import MEBIBYTE, Settings
from app.telemetry import Telemetry
from app.topics import ensure_topics
from app.transactions import TRANSACTION_S, ExactlyOncePublisher
from models.inference.tasks import Prediction
from tests.integration.conftest import Topics, run
from tests.workers import service_settings

WITHIN_S = 40.0
MANY = 3_000
SMALL = {"max.message.bytes": "3000"}
SMALL_SEGMENTS = {"segment.bytes": str(MEBIBYTE), "max.message.bytes": str(16 * MEBIBYTE)}
"""A batch larger than a segment is refused with another error."""


@dataclass
class Message:
    """A record of the request topic, as the consumer hands it over."""

    tp: TP
    offset: int
    key: bytes | None = None
    value: bytes | None = b"{}"
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    timestamp: float = 1.0


class Owner:
    """Whoever owns the partitions: hands requests over and follows what becomes of them."""

    def __init__(self) -> None:
        self.trackers: dict[TP, OffsetTracker] = {}
        self.acknowledged: list[int] = []
        self.errors: list[BaseException] = []
        self.revoked = False

    def outcome(
        self,
        message: Message,
        error: Exception | None = None,
        *,
        embedding: list[float] | None = None,
    ) -> Outcome:
        """Hand a request over, and answer it."""
        tracker = self.trackers.setdefault(message.tp, OffsetTracker(1))
        tracker.begin(message.offset)
        place = Source(message.tp.topic, message.tp.partition, message.offset)
        event = Event(None, None, None, None, message)
        job = Job(event, place, f"id-{message.offset}", Request("text"))
        prediction = Prediction(
            *("m", "1", "embedding", None, None, None, None),
            embedding=embedding or [0.5],
            segments=1,
            tokens=3,
            inference_ms=1.0,
        )
        return Outcome.of(job, error or prediction)

    def owns(self, _: Message) -> bool:
        return not self.revoked

    may_answer = owns

    def ack(self, message: Message) -> None:
        self.acknowledged.append(message.offset)

    def finish(self, message: Message) -> None:
        self.trackers[message.tp].finish(message.offset)

    def answered_upto(self, tp: TP) -> int:
        return self.trackers[tp].answered_upto


@dataclass
class Bench:
    """A publisher at work, and the topics that it writes."""

    publisher: Publisher
    owner: Owner
    settings: Settings
    topics: Topics

    @property
    def tp(self) -> TP:
        return TP(self.settings.request_topic, 0)

    def message(self, offset: int, **fields: Any) -> Message:
        return Message(self.tp, offset, **fields)

    async def publish(self, *outcomes: Outcome) -> None:
        """Publish, and wait until all are acknowledged."""
        await self.publisher.publish(outcomes)
        await self.acknowledged()

    async def acknowledged(self) -> None:
        """Wait until everything that was published is acknowledged."""
        async with asyncio.timeout(WITHIN_S):
            while self.publisher.awaiting_delivery:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


KINDS = {"at-least-once": AtLeastOncePublisher, "exactly-once": ExactlyOncePublisher}


@asynccontextmanager
async def bench(kind: str, settings: Settings, topics: Topics) -> AsyncIterator[Bench]:
    owner = Owner()
    publisher: Publisher = KINDS[kind](
        settings,
        Telemetry(settings),
        lambda: owner,
        owner.errors.append,
    )
    await publisher.start()
    try:
        yield Bench(publisher, owner, settings, topics)
    finally:
        await publisher.on_partitions_revoked()
        await publisher.stop()


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Have asyncio tell of futures of this test in this test."""
    yield
    gc.collect()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(bootstrap_servers: str, tmp_path: Path) -> Settings:
    """Settings with topics of one partition, whose order is that of the writing."""
    names = f"delivery-{uuid.uuid4().hex[:8]}"
    settings = service_settings(bootstrap_servers, names, tmp_path, partitions=1)
    run(ensure_topics(settings))
    return settings


@asynccontextmanager
async def administration(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await admin.start()
    try:
        async with asyncio.timeout(WITHIN_S):
            yield admin
    finally:
        await admin.close()


async def create(settings: Settings, topic: str, config: dict[str, str] | None = None) -> None:
    async with administration(settings) as admin:
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=config or {})])
        while topic not in await admin.list_topics():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def delete(settings: Settings, topic: str) -> None:
    async with administration(settings) as admin:
        await admin.delete_topics([topic])
        while topic in await admin.list_topics():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def small(settings: Settings, topic: str, config: dict[str, str] = SMALL) -> None:
    """Make a topic anew that takes small records only."""
    await delete(settings, topic)
    await create(settings, topic, config)


def keys(records: Iterable[ConsumerRecord]) -> list[str]:
    return [record.key.decode() for record in records]


def headers(record: ConsumerRecord) -> dict[str, bytes]:
    return dict(record.headers)


def test_a_response_goes_with_its_key_and_headers(
    kind: str, settings: Settings, topics: Topics
) -> None:
    carried = [("traceparent", b"00-1"), ("else", b"x")]

    async def publish() -> None:
        async with bench(kind, settings, topics) as at:
            await at.publish(at.owner.outcome(at.message(0, key=b"k", headers=carried)))
            assert at.owner.acknowledged == [0]

    run(publish())
    [response] = topics.read(settings.response_topic, 1)
    assert response.key == b"id-0"
    assert headers(response) == {"traceparent": b"00-1", "request-key": b"k"}


@pytest.mark.parametrize("key", [None, b"k"])
def test_a_tombstone_becomes_a_dead_letter_of_no_value_and_its_key(
    kind: str, settings: Settings, topics: Topics, key: bytes | None
) -> None:
    async def publish() -> None:
        async with bench(kind, settings, topics) as at:
            tombstone = at.message(0, key=key, value=None)
            await at.publish(
                at.owner.outcome(tombstone, Tombstone("the record has no value")),
                at.owner.outcome(at.message(1)),
            )
            assert sorted(at.owner.acknowledged) == [0, 1]

    run(publish())
    [letter] = topics.read(settings.dead_letter_topic, 1)
    assert (letter.key, letter.value) == (key, None)
    assert headers(letter)["error.code"] == b"tombstone"
    assert sorted(keys(topics.read(settings.response_topic, 2))) == ["id-0", "id-1"]


def test_a_reply_topic_is_answered_on_and_what_it_does_not_take_goes_home(
    kind: str, settings: Settings, topics: Topics
) -> None:
    good = settings.reply_topics.removesuffix(".*")
    asked = [good, f"{good}-small", f"{good}-missing", "somebody-elses", good + "x" * MEBIBYTE]

    async def publish() -> None:
        await create(settings, good)
        await create(settings, f"{good}-small", SMALL)
        async with bench(kind, settings, topics) as at:
            await at.publish(
                *(
                    at.owner.outcome(
                        at.message(offset, headers=[("reply-topic", topic.encode())]),
                        embedding=[0.123456789] * 400,
                    )
                    for offset, topic in enumerate(asked)
                ),
                at.owner.outcome(at.message(5)),
            )
            assert sorted(at.owner.acknowledged) == [0, 1, 2, 3, 4, 5]

    run(publish())
    assert keys(topics.read(good, 1)) == ["id-0"]
    home = {record.key.decode(): record for record in topics.read(settings.response_topic, 5)}
    assert sorted(home) == ["id-1", "id-2", "id-3", "id-4", "id-5"]
    assert b"TooLarge" in headers(home["id-1"])["reply-error"]
    assert b"no topic" in headers(home["id-2"])["reply-error"]
    assert b"does not match" in headers(home["id-3"])["reply-error"]
    assert b"no topic" in headers(home["id-4"])["reply-error"]
    assert len(headers(home["id-4"])["reply-error"]) < 300
    assert "reply-error" not in headers(home["id-5"])


def test_a_reply_topic_that_was_deleted_is_waited_for_once(
    kind: str, settings: Settings, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For five seconds, here one, and not for as long as a transaction may take."""
    for limit in ("delivery.REPLY_TIMEOUT_S", "transactions.REPLY_TIMEOUT_S"):
        monkeypatch.setattr(f"app.{limit}", 1.0)
    monkeypatch.setattr("app.delivery.STOP_TIMEOUT_S", 0.5)
    replies = settings.reply_topics.removesuffix(".*")
    asking = [("reply-topic", replies.encode())]

    async def publish() -> None:
        await create(settings, replies)
        async with bench(kind, settings, topics) as at:
            await at.publish(at.owner.outcome(at.message(0, headers=asking)))
            await delete(settings, replies)
            async with asyncio.timeout(TRANSACTION_S):
                await at.publish(
                    at.owner.outcome(at.message(1, headers=asking)),
                    at.owner.outcome(at.message(2)),
                )
                await at.publish(
                    at.owner.outcome(at.message(3, headers=asking)),
                    at.owner.outcome(at.message(4, headers=asking)),
                )
            assert sorted(at.owner.acknowledged) == list(range(5))

    run(publish())
    home = {one.key.decode(): headers(one) for one in topics.read(settings.response_topic, 4)}
    assert sorted(home) == ["id-1", "id-2", "id-3", "id-4"]
    assert "reply-error" in home["id-1"]
    assert "reply-error" not in home["id-2"]
    assert b"no topic" in home["id-3"]["reply-error"]
    assert b"no topic" in home["id-4"]["reply-error"]


def test_a_response_that_is_too_large_becomes_an_error_and_holds_up_nobody(
    kind: str, settings: Settings, topics: Topics
) -> None:
    async def publish() -> None:
        await small(settings, settings.response_topic)
        async with bench(kind, settings, topics) as at:
            await at.publish(
                at.owner.outcome(at.message(0)),
                at.owner.outcome(at.message(1, key=b"k"), embedding=[0.123456789] * 1000),
                at.owner.outcome(at.message(2, key=b"k" * 5000)),
                at.owner.outcome(at.message(3)),
            )
            assert sorted(at.owner.acknowledged) == [0, 1, 2, 3]

    run(publish())
    found = {one.key.decode(): one for one in topics.read(settings.response_topic, 4)}
    responses = {key: orjson.loads(one.value) for key, one in found.items()}
    assert [responses[f"id-{n}"]["status"] for n in range(4)] == ["ok", "error", "ok", "ok"]
    assert responses["id-1"]["error"]["code"] == "inference_failed"
    assert headers(found["id-2"]) == {"request-key-omitted": b"too large"}
    [letter] = topics.read(settings.dead_letter_topic, 1)
    assert (letter.key, headers(letter)["source.offset"]) == (b"k", b"1")


@pytest.mark.parametrize(
    ("config", "size"), [(SMALL, 5_000), (SMALL_SEGMENTS, 2 * MEBIBYTE)], ids=["record", "segment"]
)
def test_a_dead_letter_that_is_too_large_goes_without_its_value(
    kind: str, settings: Settings, topics: Topics, config: dict[str, str], size: int
) -> None:
    async def publish() -> None:
        await small(settings, settings.dead_letter_topic, config)
        async with bench(kind, settings, topics) as at:
            await at.publish(
                at.owner.outcome(at.message(0, key=b"k", value=b"x" * size), EmptyText("blank")),
                at.owner.outcome(at.message(1, key=b"k" * size), EmptyText("blank")),
                at.owner.outcome(at.message(2)),
            )
            assert sorted(at.owner.acknowledged) == [0, 1, 2]

    run(publish())
    letters = topics.read(settings.dead_letter_topic, 2)
    found = {headers(letter)["source.offset"]: letter for letter in letters}
    assert (found[b"0"].key, found[b"0"].value) == (b"k", None)
    assert (found[b"1"].key, found[b"1"].value) == (None, None)
    assert {headers(letter)["error.value"] for letter in letters} == {b"omitted"}
    assert len(topics.read(settings.response_topic, 3)) == 3


def test_nobody_waits_for_a_producer_that_was_replaced(settings: Settings, topics: Topics) -> None:
    """Neither one that has asked it for a topic, nor one that will."""

    async def publish() -> None:
        async with bench("at-least-once", settings, topics) as at:
            publisher = at.publisher
            assert isinstance(publisher, AtLeastOncePublisher)
            producer = publisher._producer
            assert producer is not None
            record = Envelope(f"{settings.response_topic}-missing", b"k", b"v", [])
            waiting = asyncio.ensure_future(record.send(producer))
            await asyncio.sleep(0)
            await publisher._renew(producer)
            async with asyncio.timeout(WITHIN_S):
                with pytest.raises(ProducerClosed):
                    await waiting
                with pytest.raises(ProducerClosed):
                    await record.send(producer)
            await at.publish(at.owner.outcome(at.message(0)))

    run(publish())


def test_what_is_larger_than_any_record_is_not_sent(
    kind: str, settings: Settings, topics: Topics
) -> None:
    """The broker would close the connection, and everything else would wait with it."""
    large = b"x" * (101 * MEBIBYTE)

    async def publish() -> None:
        async with bench(kind, settings, topics) as at:
            await at.publish(
                at.owner.outcome(at.message(0)),
                at.owner.outcome(at.message(1, key=b"k", value=large), EmptyText("blank")),
                at.owner.outcome(at.message(2, key=large), EmptyText("blank")),
                at.owner.outcome(at.message(3, headers=[("h", large)]), EmptyText("blank")),
                at.owner.outcome(at.message(4)),
            )
            assert sorted(at.owner.acknowledged) == [0, 1, 2, 3, 4]

    run(publish())
    letters = topics.read(settings.dead_letter_topic, 3)
    assert sorted(headers(letter)["source.offset"] for letter in letters) == [b"1", b"2", b"3"]
    assert {headers(letter)["error.value"] for letter in letters} == {b"omitted"}
    assert len(topics.read(settings.response_topic, 5)) == 5


def test_large_dead_letters_of_many_partitions_go_in_requests_that_the_broker_takes(
    kind: str, bootstrap_servers: str, names: str, tmp_path: Path, topics: Topics
) -> None:
    """One of 15 MiB for each of eight partitions: more than a broker takes in one request."""
    settings = service_settings(bootstrap_servers, names, tmp_path, partitions=8)
    sizes = [15 * MEBIBYTE] * 8 + [5 * MEBIBYTE] * 8

    async def publish() -> None:
        await ensure_topics(settings)
        async with bench(kind, settings, topics) as at:
            await at.publish(
                *(
                    at.owner.outcome(
                        at.message(n, key=key_of(n % 8, 8), value=bytes([n]) * size),
                        EmptyText("blank"),
                    )
                    for n, size in enumerate(sizes)
                ),
                at.owner.outcome(at.message(len(sizes))),
            )
            assert sorted(at.owner.acknowledged) == list(range(len(sizes) + 1))

    run(publish())
    letters = topics.read(settings.dead_letter_topic, len(sizes))
    found = {int(headers(one)["source.offset"]): one.value for one in letters}
    assert len(letters) == len(sizes)
    assert all(found[n] == bytes([n]) * size for n, size in enumerate(sizes))
    assert len(topics.read(settings.response_topic, len(sizes) + 1)) == len(sizes) + 1


def key_of(partition: int, partitions: int) -> bytes:
    """A key whose records go to a partition."""
    numbers = list(range(partitions))
    keys = (b"%d" % n for n in range(10_000))
    return next(key for key in keys if DefaultPartitioner()(key, numbers, numbers) == partition)


def test_a_response_topic_that_is_away_for_a_while_is_waited_for(
    kind: str, settings: Settings, topics: Topics
) -> None:
    async def publish() -> None:
        async with bench(kind, settings, topics) as at:
            await at.publish(at.owner.outcome(at.message(0)))
            await delete(settings, settings.response_topic)
            outcomes = (at.owner.outcome(at.message(n)) for n in range(1, MANY))
            publishing = asyncio.ensure_future(at.publisher.publish(outcomes))
            async with asyncio.timeout(WITHIN_S):
                while at.publisher.stalled is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert at.owner.acknowledged == [0]
            await create(settings, settings.response_topic)
            await publishing
            await at.acknowledged()
            assert sorted(at.owner.acknowledged) == list(range(MANY))
            assert at.publisher.stalled is None

    run(publish())
    responses = keys(topics.read(settings.response_topic, MANY - 1))
    assert sorted(responses) == sorted(f"id-{n}" for n in range(1, MANY))


def test_what_waits_for_room_is_dropped_with_its_partition(
    kind: str, settings: Settings, topics: Topics
) -> None:
    """Its new owner answers; and the room is there for what comes next."""

    async def publish() -> None:
        async with bench(kind, settings, topics) as at:
            at.publisher.awaiting_delivery = MAX_AWAITING_DELIVERY
            late = at.owner.outcome(at.message(0))
            publishing = asyncio.ensure_future(at.publisher.publish([late]))
            await asyncio.sleep(0)  # Now it waits for room.
            at.owner.revoked = True
            at.publisher.leave(MAX_AWAITING_DELIVERY)
            await publishing
            at.owner.revoked = False
            async with asyncio.timeout(WITHIN_S):
                await at.publish(at.owner.outcome(at.message(0)))
            assert at.owner.acknowledged == [0]

    run(publish())
    assert keys(topics.read(settings.response_topic, 1)) == ["id-0"]


def test_a_response_is_in_the_partition_of_its_key(settings: Settings, topics: Topics) -> None:
    """As Kafka's own clients would put it there."""
    several = settings.model_copy(update={"response_topic": f"{settings.response_topic}-several"})
    partitions = list(range(5))
    run(topics.create(several.response_topic, len(partitions)))

    async def publish() -> None:
        async with bench("at-least-once", several, topics) as at:
            await at.publish(*(at.owner.outcome(at.message(n)) for n in range(300)))

    run(publish())
    for record in topics.read(several.response_topic, 300):
        assert record.partition == DefaultPartitioner()(record.key, partitions, partitions)


@pytest.mark.parametrize("loops", range(4))
def test_what_is_about_to_be_sent_is_dropped_with_its_partition(
    settings: Settings, topics: Topics, loops: int
) -> None:
    """At whatever point of its way; the room of all of it is there again."""

    async def publish() -> None:
        async with bench("at-least-once", settings, topics) as at:
            await at.publisher.publish(at.owner.outcome(at.message(n)) for n in range(MANY))
            for _ in range(loops):
                await asyncio.sleep(0)
            at.owner.revoked = True
            await at.publisher.on_partitions_revoked()
            await at.acknowledged()
            at.owner.revoked = False
            await at.publish(at.owner.outcome(at.message(MANY)))
            assert at.publisher.confirmations._waiting == 0

    run(publish())
    assert f"id-{MANY}" in keys(topics.read(settings.response_topic, 1))


def test_what_waits_for_its_turn_is_dropped_with_its_partition(
    settings: Settings, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deliveries go one at a time while they fail, and its new owner answers them meanwhile."""
    monkeypatch.setattr("app.delivery.MAX_AT_ONCE", 1)

    async def publish() -> None:
        async with bench("at-least-once", settings, topics) as at:
            publisher = at.publisher
            assert isinstance(publisher, AtLeastOncePublisher)
            async with publisher._turns.turn():
                late = [at.owner.outcome(at.message(n), EmptyText("blank")) for n in range(3)]
                await publisher.publish(late[:2])
                while not publisher._turns._waiting:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                await publisher.publish(late[2:])  # its task has not begun yet
                at.owner.revoked = True
                await publisher.on_partitions_revoked()
            assert publisher.awaiting_delivery == 0
            at.owner.revoked = False
            await at.publish(at.owner.outcome(at.message(3), EmptyText("blank")))
            assert at.owner.acknowledged == [3]

    run(publish())
    assert keys(topics.read(settings.response_topic, 1)) == ["id-3"]
    assert len(topics.read(settings.dead_letter_topic, 1)) == 1


def test_a_delivery_that_fails_for_no_known_reason_is_told_of_and_keeps_no_room(
    settings: Settings, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = AssertionError("of nobody who was asked")

    async def fail(*_: object, **__: object) -> None:
        raise error

    async def publish() -> None:
        async with bench("at-least-once", settings, topics) as at:
            with monkeypatch.context() as patch:
                patch.setattr(Envelope, "send", fail)
                patch.setattr(AIOKafkaProducer, "send_batch", fail)
                await at.publish(at.owner.outcome(at.message(0), EmptyText("blank")))
                await at.publish(at.owner.outcome(at.message(1)))
            assert at.owner.errors == [error, error]
            assert at.owner.acknowledged == []
            assert at.publisher.awaiting_delivery == at.publisher.confirmations._waiting == 0
            assert at.publisher.stalled is None
            await at.publish(at.owner.outcome(at.message(2)))
            assert at.owner.acknowledged == [2]

    run(publish())


def test_outcomes_are_committed_in_order_whatever_order_they_come_in(
    settings: Settings, topics: Topics
) -> None:
    """Of a chain of transactions; offsets that the topic does not hold are passed over."""

    async def publish() -> None:
        async with bench("exactly-once", settings, topics) as at:
            outcomes = [at.owner.outcome(at.message(offset)) for offset in (3, 7, 8, 20)]
            await at.publisher.publish([outcomes[1], outcomes[2]])
            await asyncio.sleep(0.2)
            assert at.owner.acknowledged == []
            assert await committed(at) is None
            await at.publish(outcomes[0])
            assert sorted(at.owner.acknowledged) == [3, 7, 8]
            await is_committed(at, 9)
            await at.publish(outcomes[3])
            await is_committed(at, 21)

    run(publish())
    assert len(topics.read(settings.response_topic, 4)) == 4


async def is_committed(at: Bench, offset: int) -> None:
    """Wait for a commit: Kafka confirms a transaction before it has become visible."""
    async with asyncio.timeout(WITHIN_S):
        while await committed(at) != offset:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def committed(at: Bench) -> int | None:
    async with administration(at.settings) as admin:
        tp = TopicPartition(*at.tp)
        found = (await committed_offsets(admin._client, at.settings.app_id, [tp]))[tp]
        return None if found is None else found.offset


def test_a_former_owner_that_wakes_up_writes_nothing_twice(
    settings: Settings, topics: Topics
) -> None:
    """It is fenced, begins anew, and finds in the committed offset what was answered meanwhile."""

    async def publish() -> None:
        async with (
            bench("exactly-once", settings, topics) as former,
            bench("exactly-once", settings, topics) as owner,
        ):
            await former.publish(former.owner.outcome(former.message(0)))
            # The partition goes to another, which the former owner has not noticed.
            for offset in (1, 2, 3):
                await owner.publish(owner.owner.outcome(owner.message(offset)))
            await former.publish(*(former.owner.outcome(former.message(n)) for n in range(1, 6)))
            assert sorted(former.owner.acknowledged) == [0, 1, 2, 3, 4, 5]
            # And the other way round: whoever writes next goes on behind what is written.
            await owner.publish(*(owner.owner.outcome(owner.message(n)) for n in range(4, 8)))
            await is_committed(owner, 8)

    run(publish())
    assert keys(topics.read(settings.response_topic, 8)) == [f"id-{n}" for n in range(8)]


def test_what_an_owner_left_open_is_ended_by_the_next(settings: Settings, topics: Topics) -> None:
    """As after `kill -9` in the middle of a transaction."""

    async def publish() -> None:
        async with (
            bench("exactly-once", settings, topics) as killed,
            bench("exactly-once", settings, topics) as owner,
        ):
            await killed.publish(killed.owner.outcome(killed.message(0)))
            assert isinstance(killed.publisher, ExactlyOncePublisher)
            [chain] = killed.publisher._chains.values()
            producer = chain._producer
            assert producer is not None
            await producer.begin_transaction()
            await producer.send_and_wait(settings.response_topic, b"{}", key=b"never-committed")
            tp = TopicPartition(*killed.tp)
            await producer.send_offsets_to_transaction({tp: 9}, settings.app_id)

            await owner.publish(owner.owner.outcome(owner.message(1)))
            await is_committed(owner, 2)

    run(publish())
    assert keys(topics.read(settings.response_topic, 2)) == ["id-0", "id-1"]
