"""How every Kafka client of ours connects."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from app.errors import BrokerError, SettingsError
from app.settings import DEFAULT_BROKER_URL, PREFIX, Settings

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, TopicPartition

CONNECT_TIMEOUT_S = 8.0
"""Longest that a client waits for a first answer of the brokers."""
NEW_TOPIC_S = 5.0
"""Longest that every broker takes to know a topic that was just created."""


class KafkaClient(Protocol):
    """What aiokafka's consumers, producers and admin clients have in common."""

    async def start(self) -> None: ...


def client_options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments that aiokafka's consumers, producers and admin clients share.

    Raises:
        SettingsError: a certificate or key file cannot be read.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "security_protocol": settings.security_protocol or "PLAINTEXT",
    }
    if options["security_protocol"].endswith("SSL"):
        options["ssl_context"] = _ssl_context(settings)
    if options["security_protocol"].startswith("SASL"):
        assert settings.sasl_password is not None  # Settings refuses SASL without credentials
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password.get_secret_value(),
        }
    return options


async def connect(client: KafkaClient, settings: Settings) -> None:
    """Start an aiokafka client; `stop()` it afterwards, also after an error.

    Raises:
        BrokerError: no broker answers within `CONNECT_TIMEOUT_S`, or it refuses us; says why.
    """
    from aiokafka.errors import KafkaError

    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await client.start()
    except (KafkaError, OSError, TimeoutError) as error:
        raise await _unreachable(settings, error) from None


@contextlib.contextmanager
def broker_errors(what: str) -> Iterator[None]:
    """Turn aiokafka's errors in the block into one `BrokerError` line that begins with `what`."""
    from aiokafka.errors import KafkaError

    try:
        yield
    except KafkaError as error:
        raise BrokerError(f"{what}: {_reason(error)}") from error


async def partitions_of(consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
    """The partitions of a topic that exists.

    Raises:
        BrokerError: the topic does not exist.
    """
    from aiokafka import TopicPartition

    deadline = time.monotonic() + NEW_TOPIC_S
    while True:
        # A consumer keeps metadata of the topics alone that it reads; this asks for all.
        cluster = await consumer._client.fetch_all_metadata()
        if partitions := cluster.partitions_for_topic(topic):
            break
        if time.monotonic() > deadline:
            raise BrokerError(f"there is no topic {topic}: bertstream topics --create creates it")
        await asyncio.sleep(0.05)
    return [TopicPartition(topic, partition) for partition in sorted(partitions)]


async def seek_to_end(consumer: AIOKafkaConsumer) -> None:
    """Stand, once this returns, behind everything that is on the assigned partitions now."""
    for partition, offset in (await consumer.end_offsets(consumer.assignment())).items():
        consumer.seek(partition, offset)


async def _unreachable(settings: Settings, error: Exception) -> BrokerError:
    """Ask the first broker once more: a client's own error does not say why it failed."""
    from aiokafka.conn import create_conn

    options = client_options(settings)
    servers: list[str] = options.pop("bootstrap_servers")
    host, _, port = servers[0].rpartition(":")
    try:
        async with asyncio.timeout(2):
            connection = await create_conn(host.strip("[]"), int(port), **options)
        connection.close()
    except TimeoutError:
        reason = "it does not answer"
    except Exception as again:
        reason = _reason(again)
    else:
        reason = _reason(error)
    advice = (
        f"check {PREFIX}BROKER_URL and the broker"
        if settings.broker_url
        else "start one (bertstream up, or bertstream broker), or name yours in "
        f"{PREFIX}BROKER_URL, such as {DEFAULT_BROKER_URL}"
    )
    return BrokerError(f"no Kafka broker at {', '.join(servers)} ({reason}): {advice}")


def _reason(error: BaseException) -> str:
    """One line of what went wrong, without the jargon that aiokafka puts around it."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    if isinstance(cause, asyncio.IncompleteReadError):
        return f"what answers there is no Kafka, or not of this {PREFIX}SECURITY_PROTOCOL"
    text = " ".join(str(cause).split()) or type(cause).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
        path = getattr(settings, name)
        if path is not None and not path.is_file():
            raise SettingsError(f"{PREFIX}{name.upper()}={path}: there is no such file")
    try:
        context = ssl.create_default_context(cafile=settings.ssl_cafile)
        if settings.ssl_certfile is not None:
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"the SSL files of the settings cannot be used: {error}") from None
    return context
