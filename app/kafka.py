"""How every Kafka client of ours connects."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from app.diagnosis import diagnose, reason_of
from app.errors import BrokerError, SettingsError
from app.logs import hide_credentials
from app.settings import PREFIX, Settings

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
    from app.produce_requests import bound_produce_requests
    from app.record_batches import accept_any_header_name

    accept_any_header_name()
    bound_produce_requests()
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "security_protocol": settings.security_protocol or "PLAINTEXT",
    }
    if options["security_protocol"].endswith("SSL"):
        options["ssl_context"] = _ssl_context(settings)
    if options["security_protocol"].startswith("SASL"):
        assert settings.sasl_password is not None  # Settings refuses SASL without credentials
        hide_credentials()
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password.get_secret_value(),
        }
    return options


async def connect(client: KafkaClient, settings: Settings) -> None:
    """Start an aiokafka client; `stop()` it afterwards, also after an error.

    Raises:
        BrokerRefused: a broker answers, but will not have us, or we do not trust it.
        BrokerError: no broker answers within `CONNECT_TIMEOUT_S`; says why.
    """
    from aiokafka.errors import KafkaError

    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await client.start()
    except (KafkaError, OSError, TimeoutError) as error:
        raise await diagnose(settings, client_options(settings), error) from None


async def close(consumer: AIOKafkaConsumer) -> None:
    """Stop a consumer, whatever it is waiting for.

    aiokafka's own `stop()` ends as if it had been cancelled itself where a fetch is under way, and
    leaves its connections open.
    """
    stopping = asyncio.ensure_future(consumer.stop())
    await asyncio.wait({stopping})
    if stopping.cancelled():
        fetches = [fetch for fetch in consumer._fetcher._pending_tasks if fetch.cancel()]
        await asyncio.gather(*fetches, return_exceptions=True)
        await consumer._client.close()
    else:
        stopping.result()


@contextlib.contextmanager
def broker_errors(what: str) -> Iterator[None]:
    """Turn aiokafka's errors in the block into one `BrokerError` line that begins with `what`."""
    from aiokafka.errors import KafkaError

    try:
        yield
    except KafkaError as error:
        raise BrokerError(f"{what}: {reason_of(error)}") from error


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


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
        path = getattr(settings, name)
        if path is not None and not path.is_file():
            raise SettingsError(f"{PREFIX}{name.upper()}={path}: there is no such file")
    try:
        context = ssl.create_default_context(cafile=settings.ssl_cafile)
        if settings.ssl_certfile is not None:
            # Without a function that refuses, OpenSSL asks for a passphrase on the terminal.
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, _no_passphrase)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"the SSL files of the settings cannot be used: {error}") from None
    return context


def _no_passphrase() -> str:
    raise SettingsError(
        f"the key in {PREFIX}SSL_KEYFILE or {PREFIX}SSL_CERTFILE is encrypted: give one without a "
        "passphrase (openssl pkey -in KEY -out KEY-WITHOUT), readable by the worker's user alone"
    )
