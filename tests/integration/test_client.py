"""The client on a real broker, answered by a few lines that stand in for a worker."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import ConsumerRecord

from app.client import Client, Document, NoAnswer, Progress
from app.errors import BertstreamError, BrokerError
from app.settings import MAX_RECORD_BYTES, Settings
from tests.integration.conftest import Produced, Topics, run
from tests.workers import service_settings

Answer = Callable[[ConsumerRecord], list[dict[str, Any]]]
CONNECT_WITHIN_S = 15.0


def answer(record: ConsumerRecord, **more: Any) -> dict[str, Any]:
    """A response, as far as a client needs it."""
    request = orjson.loads(record.value)
    source = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    return {"id": request["id"], "status": "ok", "label": request["text"], "source": source} | more


def once(record: ConsumerRecord) -> list[dict[str, Any]]:
    return [answer(record)]


@contextlib.asynccontextmanager
async def responder(settings: Settings, answers: Answer = once) -> AsyncIterator[None]:
    """Answer every request that is on the topic or comes, with `answers` of it."""
    servers = settings.bootstrap_servers
    consumer = AIOKafkaConsumer(
        settings.request_topic,
        bootstrap_servers=servers,
        group_id=settings.app_id,
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(bootstrap_servers=servers, max_request_size=MAX_RECORD_BYTES)

    async def respond() -> None:
        async for record in consumer:
            for response in answers(record):
                value = orjson.dumps(response)
                await producer.send(settings.response_topic, value, key=response["id"].encode())

    async with consumer, producer:
        responding = asyncio.create_task(respond())
        try:
            yield
        finally:
            responding.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await responding


def test_predict(settings: Settings) -> None:
    async def main() -> None:
        async with responder(settings), Client(settings) as client:
            first = await client.predict("a text", timeout_s=30)
            assert (first["label"], first["source"]["topic"]) == ("a text", settings.request_topic)
            second = await client.predict({"text": "named", "id": "mine", "label": "x"})
            assert (second["label"], second["id"]) == ("named", "mine")

    run(main())


def test_every_document_gets_its_own_response(settings: Settings) -> None:
    """Ids are used twice, and every tenth request is answered twice."""
    documents = [{"text": f"{n}", "id": f"id-{n % 500}"} for n in range(2000)]
    seen: list[Progress] = []

    def answers(record: ConsumerRecord) -> list[dict[str, Any]]:
        return [answer(record)] * (1 + (int(orjson.loads(record.value)["text"]) % 10 == 0))

    async def main() -> Counter[str]:
        received: Counter[str] = Counter()
        async with responder(settings, answers), Client(settings) as client:
            exchange = client.exchange(documents, progress=seen.append, max_in_flight=300)
            async for document, response in exchange:
                assert isinstance(document, dict)
                assert (document["text"], document["id"]) == (response["label"], response["id"])
                received[document["text"]] += 1
        return received

    assert run(main()) == Counter(document["text"] for document in documents)
    counts = seen[-1]
    assert (counts.sent, counts.answered) == (2000, 2000)
    assert 150 <= counts.duplicates <= 200  # those of the last documents may come too late


def test_several_exchanges_at_once_share_the_reader(settings: Settings) -> None:
    async def main() -> None:
        async with responder(settings), Client(settings) as client:
            responses = await asyncio.gather(
                *(client.predict(f"text {n}", timeout_s=30) for n in range(50))
            )
            assert [response["label"] for response in responses] == [f"text {n}" for n in range(50)]

    run(main())


def test_documents_that_come_slowly(settings: Settings) -> None:
    """A source may be silent for longer than a worker may."""

    async def slowly() -> AsyncIterator[Document]:
        for n in range(3):
            yield f"{n}"
            await asyncio.sleep(0.5)

    async def main() -> list[str]:
        async with responder(settings), Client(settings) as client:
            await client.predict("warm up", timeout_s=30)
            return [
                response["label"] async for response in client.predict_many(slowly(), silence_s=0.4)
            ]

    assert run(main()) == ["0", "1", "2"]


def test_an_idle_client_reads_nothing(settings: Settings, topics: Topics) -> None:
    """What others are answered meanwhile is skipped, not read, before the next request."""

    async def main() -> None:
        async with Client(settings) as client:
            async with responder(settings):
                assert (await client.predict("first", timeout_s=30))["label"] == "first"
            reader = client._reader
            assert reader is not None
            assert reader.paused() == reader.assignment() != set()
            foreign = [
                Produced(orjson.dumps({"id": f"{n}", "fill": "x" * 1000})) for n in range(500)
            ]
            await asyncio.to_thread(topics.write, settings.response_topic, foreign)
            before = {tp: await reader.position(tp) for tp in reader.assignment()}
            async with responder(settings):
                assert (await client.predict("second", timeout_s=30))["label"] == "second"
            after = {tp: await reader.position(tp) for tp in reader.assignment()}
            assert sum(after.values()) - sum(before.values()) == 501

    run(main())


def test_no_worker_is_said_with_what_is_missing(settings: Settings) -> None:
    async def main() -> None:
        async with Client(settings) as client:
            began = time.monotonic()
            with pytest.raises(NoAnswer, match=r"no answer within 0\.5 s; is a worker running"):
                await client.predict("text", timeout_s=0.5)
            assert time.monotonic() - began < 5
            with pytest.raises(NoAnswer, match="2 of 2 documents are unanswered"):
                async for _ in client.predict_many(["a", "b"], silence_s=0.5):
                    pass

    run(main())


def test_half_of_the_answers_missing(settings: Settings) -> None:
    def even(record: ConsumerRecord) -> list[dict[str, Any]]:
        return [answer(record)] if int(orjson.loads(record.value)["text"]) % 2 == 0 else []

    async def main() -> None:
        seen: list[Progress] = []

        async def collect(client: Client) -> list[dict[str, Any]]:
            answers = client.predict_many(map(str, range(100)), progress=seen.append, silence_s=5)
            return [response async for response in answers]

        async with responder(settings, even), Client(settings) as client:
            with pytest.raises(NoAnswer, match="50 of 100 documents are unanswered"):
                await collect(client)
        assert (seen[-1].answered, seen[-1].outstanding) == (50, 50)

    run(main())


def test_send_is_done_when_kafka_has_everything(settings: Settings, topics: Topics) -> None:
    async def main() -> None:
        async with Client(settings) as client:
            assert await client.send({"text": f"{n}", "top_k": 2} for n in range(100)) == 100

    run(main())
    records = topics.read(settings.request_topic, 100)
    requests = [orjson.loads(record.value) for record in records]
    assert Counter(request["text"] for request in requests) == Counter(map(str, range(100)))
    assert all(request["top_k"] == 2 for request in requests)
    assert [record.key.decode() for record in records] == [request["id"] for request in requests]
    assert len({request["id"] for request in requests}) == 100


def test_what_only_a_worker_may_refuse_is_sent(settings: Settings, topics: Topics) -> None:
    async def main() -> None:
        async with Client(settings) as client:
            documents = [{"text": "\ud800", "id": "\ud800"}, {"text": "\0"}, {"text": "x" * 2**21}]
            assert await client.send(documents) == 3

    run(main())
    assert len(topics.read(settings.request_topic, 3)) == 3


def test_a_document_that_kafka_does_not_take(settings: Settings) -> None:
    async def main() -> None:
        async with Client(settings) as client:
            with pytest.raises(
                BrokerError, match=r"'big' makes a record of 16\.0 MiB; .*at most 16"
            ):
                await client.predict({"id": "big", "text": "x" * MAX_RECORD_BYTES})

    run(main())


def test_an_error_of_the_source_of_documents_is_raised(settings: Settings) -> None:
    def broken() -> Any:
        yield "one"
        raise BertstreamError("line 2: not UTF-8")

    async def main() -> None:
        async with Client(settings) as client:
            with pytest.raises(BertstreamError, match="line 2"):
                async for _ in client.predict_many(broken()):
                    pass

    run(main())


def test_responses_from_the_beginning_and_from_now(settings: Settings) -> None:
    async def main() -> None:
        async with responder(settings), Client(settings) as client:
            await client.predict("before", timeout_s=30)
            kept = client.responses(from_beginning=True)
            assert (await anext(kept))["label"] == "before"
            await kept.aclose()

            coming = client.responses()
            waiting = asyncio.ensure_future(anext(coming))
            while not waiting.done():  # when it has begun to listen cannot be seen from outside
                await client.predict("now", timeout_s=30)
                await asyncio.sleep(0.05)
            assert waiting.result()["label"] == "now"
            await coming.aclose()

    run(main())


def test_what_is_no_response_is_passed_over(settings: Settings, topics: Topics) -> None:
    noise = [Produced(value, key=b"") for value in (None, b"", b"\xff", b"[1]", b"{", b'{"id": 1}')]
    topics.write(settings.response_topic, noise)

    async def main() -> None:
        async with responder(settings), Client(settings) as client:
            await client.predict("text", timeout_s=30)
            found = [response async for response in _first(client, 2)]
            assert {"id": 1} in found

    run(main())


async def _first(client: Client, count: int) -> AsyncIterator[dict[str, Any]]:
    async with contextlib.aclosing(client.responses(from_beginning=True)) as responses:
        async for response in responses:
            yield response
            count -= 1
            if not count:
                return


def test_topics_are_created_where_that_is_wanted(
    bootstrap_servers: str, names: str, tmp_path: Path
) -> None:
    settings = service_settings(bootstrap_servers, names, tmp_path, partitions=3)

    async def main() -> None:
        refusing = settings.model_copy(update={"create_topics": False})
        with pytest.raises(BrokerError, match=f"no topic {names}-requests.*--create"):
            await Client(refusing).__aenter__()
        async with Client(settings) as client, responder(settings):
            response = await client.predict("text", timeout_s=30)
            assert response["source"]["partition"] in range(3)

    run(main())


def test_a_broker_that_is_not_there(names: str, tmp_path: Path) -> None:
    settings = service_settings("127.0.0.1:1", names, tmp_path)

    async def main() -> None:
        began = time.monotonic()
        with pytest.raises(BrokerError, match=r"no Kafka broker at 127\.0\.0\.1:1 \(connection"):
            await Client(settings).__aenter__()
        assert time.monotonic() - began < CONNECT_WITHIN_S

    run(main())


def test_something_that_is_no_broker(names: str, tmp_path: Path) -> None:
    async def main() -> None:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.closing(writer):
                await reader.read()

        for behaviour, message in ((greet, "is no Kafka"), (hold, "does not answer")):
            server = await asyncio.start_server(behaviour, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            settings = service_settings(f"127.0.0.1:{port}", names, tmp_path)
            began = time.monotonic()
            with pytest.raises(BrokerError, match=message):
                await Client(settings).__aenter__()
            assert time.monotonic() - began < CONNECT_WITHIN_S
            server.close()

    run(main())
