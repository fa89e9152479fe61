"""TLS, client certificates and SASL on a real Kafka, and secrets that are told to nobody."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient

from app.client import Client
from app.errors import BrokerError, BrokerRefused, SettingsError
from app.kafka import client_options, connect
from app.settings import PREFIX, Settings
from app.topics import ensure_topics, topic_states
from tests.integration.conftest import StartWorker, run
from tests.integration.test_cli import bertstream
from tests.secured_kafka import PASSWORD, SecuredKafka, secured_kafka
from tests.workers import StartedWorker, service_settings

TOKEN = "sesame-c04d77-token"
WAITS_AT_MOST_S = 5.0
DOCUMENT = "The striker scored twice in the last ten minutes of the cup final."


@pytest.fixture(scope="module")
def kafka(
    kafka_jars: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SecuredKafka]:
    with secured_kafka(tmp_path_factory.mktemp("secured"), kafka_jars) as kafka:
        yield kafka


def client_settings(kafka: SecuredKafka, names: str, folder: Path, **values: Any) -> Settings:
    """Settings of a service with names of its own."""
    return service_settings(kafka.broker.address, names, folder, **values)


@pytest.mark.parametrize(
    ("listener", "mechanism"),
    [
        ("SASL_PLAINTEXT", "PLAIN"),
        ("SASL_PLAINTEXT", "SCRAM-SHA-256"),
        ("SASL_PLAINTEXT", "SCRAM-SHA-512"),
        ("SSL", None),
        ("MUTUAL", None),
        ("SASL_SSL", "PLAIN"),
        ("SASL_SSL", "SCRAM-SHA-256"),
        ("SASL_SSL", "SCRAM-SHA-512"),
    ],
)
def test_every_kind_of_client_passes(
    kafka: SecuredKafka, names: str, tmp_path: Path, listener: str, mechanism: str | None
) -> None:
    """Topics are created, documents produced, and read and committed in a group."""
    settings = client_settings(kafka, names, tmp_path, **kafka.settings(listener, mechanism))

    async def exchange() -> tuple[list[bytes], int | None]:
        await ensure_topics(settings)
        async with Client(settings) as client:
            assert await client.send([DOCUMENT, DOCUMENT]) == 2
        consumer = AIOKafkaConsumer(
            settings.request_topic,
            **client_options(settings),
            group_id=settings.app_id,
            auto_offset_reset="earliest",
        )
        async with consumer, asyncio.timeout(30):
            read = [await consumer.getone(), await consumer.getone()]
            await consumer.commit()
            partitions = consumer.assignment()
            committed = [await consumer.committed(partition) for partition in partitions]
        return [record.value for record in read], sum(offset or 0 for offset in committed)

    values, committed = run(exchange())
    assert [orjson.loads(value)["text"] for value in values] == [DOCUMENT, DOCUMENT]
    assert committed == 2
    assert all(topic.exists for topic in run(topic_states(settings)))


Refused = tuple[str, str | None, dict[str, Any], type[BrokerError], str, str]
REFUSED: dict[str, Refused] = {
    "wrong-password-plain": (
        *("SASL_PLAINTEXT", "PLAIN", {"sasl_password": "wrong"}, BrokerRefused),
        *("PLAIN authentication of 'alice' failed", "SASL_PASSWORD"),
    ),
    "wrong-password-scram": (
        *("SASL_SSL", "SCRAM-SHA-256", {"sasl_password": "wrong"}, BrokerRefused),
        *("SCRAM-SHA-256 authentication of 'bob' failed", "SASL_PASSWORD"),
    ),
    "nobody": (
        *("SASL_PLAINTEXT", "SCRAM-SHA-512", {"sasl_username": "eve"}, BrokerRefused),
        *("authentication of 'eve' failed", "SASL_USERNAME"),
    ),
    "authority-not-named": (
        *("SSL", None, {"ssl_cafile": None}, BrokerRefused),
        *("certificate is not trusted", "SSL_CAFILE"),
    ),
    "wrong-authority": (
        *("SSL", None, {"ssl_cafile": "other-authority"}, BrokerRefused),
        *("certificate is not trusted", "SSL_CAFILE"),
    ),
    "wrong-host": (
        *("SSL", None, {"broker_url": "127.0.0.1"}, BrokerRefused),
        *("certificate is of another host", "BROKER_URL"),
    ),
    "no-certificate": (
        *("MUTUAL", None, {"ssl_certfile": None}, BrokerRefused),
        *("asks for a certificate", "SSL_CERTFILE"),
    ),
    "no-certificate-with-sasl": (
        *("SASL_SSL", "PLAIN", {"ssl_certfile": None}, BrokerRefused),
        *("asks for a certificate", "SSL_CERTFILE"),
    ),
    "certificate-of-a-stranger": (
        *("MUTUAL", None, {"ssl_certfile": "stranger"}, BrokerRefused),
        *("does not accept our certificate", "SSL_CERTFILE"),
    ),
    "sasl-on-tls-alone": (
        *("SSL", "PLAIN", {"security_protocol": "SASL_SSL"}, BrokerRefused),
        *("offers no SASL", "SECURITY_PROTOCOL=SSL"),
    ),
    "plaintext-on-tls": (
        *("SSL", None, {"security_protocol": "PLAINTEXT"}, BrokerError),
        *("without TLS", "SECURITY_PROTOCOL"),
    ),
    "plaintext-on-sasl": (
        *("SASL_PLAINTEXT", None, {"security_protocol": "PLAINTEXT"}, BrokerError),
        *("listener for SASL", "SECURITY_PROTOCOL"),
    ),
    "tls-on-plaintext": (
        *("SASL_PLAINTEXT", None, {"security_protocol": "SSL"}, BrokerError),
        *("does not speak TLS", "SECURITY_PROTOCOL"),
    ),
    "tls-without-sasl": (
        *("SASL_SSL", None, {"security_protocol": "SSL"}, BrokerError),
        *("listener for SASL", "SECURITY_PROTOCOL"),
    ),
}


def refused_settings(kafka: SecuredKafka, folder: Path, case: str) -> Settings:
    listener, mechanism, changes, *_ = REFUSED[case]
    values = kafka.settings(listener, mechanism) | changes
    for name in ("ssl_cafile", "ssl_certfile"):
        if isinstance(values.get(name), str):
            values[name] = kafka.certificates.file(values[name])
    if "://" not in values["broker_url"]:
        values["broker_url"] = kafka.address(listener, values["broker_url"])
    return client_settings(kafka, "refused", folder, **values)


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_one_line_with_what_to_do(
    kafka: SecuredKafka, tmp_path: Path, case: str
) -> None:
    *_, kind, reason, advice = REFUSED[case]
    settings = refused_settings(kafka, tmp_path, case)

    async def attempt() -> None:
        admin = AIOKafkaAdminClient(**client_options(settings))
        try:
            await connect(admin, settings)
        finally:
            await admin.close()

    began = time.monotonic()
    with pytest.raises(BrokerError) as raised:
        run(attempt())
    assert time.monotonic() - began < WAITS_AT_MOST_S
    message = str(raised.value)
    assert type(raised.value) is kind
    assert reason in message
    assert f"{PREFIX}{advice}" in message.partition("): ")[2]
    assert "\n" not in message
    assert PASSWORD not in message


def test_sasl_on_a_plain_listener(kafka: SecuredKafka, tmp_path: Path) -> None:
    values = kafka.settings("SASL_PLAINTEXT", "PLAIN")
    values["broker_url"] = f"kafka://{kafka.broker.address}"
    settings = client_settings(kafka, "refused", tmp_path, **values)
    ran = bertstream(settings, "topics")
    assert ran.returncode == 1
    assert "it offers no SASL on this port" in ran.stderr
    assert f"{PREFIX}SECURITY_PROTOCOL=PLAINTEXT" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_the_doctor_says_who_refuses(kafka: SecuredKafka, tmp_path: Path) -> None:
    ran = bertstream(refused_settings(kafka, tmp_path, "wrong-password-scram"), "doctor", "--json")
    assert ran.returncode == 1
    [found] = [each for each in orjson.loads(ran.stdout) if each["check"] == "broker"]
    assert found["status"] == "fail"
    assert "SCRAM-SHA-256 authentication of 'bob' failed" in found["detail"]
    assert f"{PREFIX}SASL_PASSWORD" in found["mend"]


def test_a_key_with_a_passphrase_is_not_asked_for(kafka: SecuredKafka, tmp_path: Path) -> None:
    values = kafka.settings("MUTUAL") | {"ssl_certfile": kafka.certificates.file("client-locked")}
    with pytest.raises(SettingsError, match="encrypted: give one without a passphrase"):
        client_options(client_settings(kafka, "refused", tmp_path, **values))


def test_a_worker_that_is_refused_ends(
    kafka: SecuredKafka, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker(refused_settings(kafka, tmp_path, "wrong-password-plain"), wait=False)
    assert worker.process.wait(60) == 1
    assert worker.log.count("PLAIN authentication of 'alice' failed") == 1
    assert "Traceback" not in worker.log


@pytest.fixture(scope="module")
def secured_settings(kafka: SecuredKafka, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Everything at once, with the mechanism that sends the password itself."""
    values = kafka.settings("SASL_SSL", "PLAIN")
    folder = tmp_path_factory.mktemp("service")
    return client_settings(kafka, "secured", folder, **values, web_token=TOKEN)


@pytest.fixture(scope="module")
def secured_worker(
    secured_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartedWorker]:
    """A worker that says all that it ever says."""
    worker = StartedWorker(
        secured_settings,
        tmp_path_factory.mktemp("log") / "worker.log",
        [sys.executable, "-P", "-m", "app.cli", "worker", "--log-level", "debug"],
    )
    try:
        worker.wait_until_ready()
        yield worker
    finally:
        worker.kill()


@pytest.fixture(scope="module")
def commands(
    secured_worker: StartedWorker, secured_settings: Settings
) -> dict[str, subprocess.CompletedProcess[str]]:
    """What the command line says beside the worker."""
    return {
        " ".join(arguments): bertstream(secured_settings, *arguments)
        for arguments in (
            ("send", "--text", DOCUMENT, "--json"),
            ("topics", "--json"),
            ("doctor", "--json"),
            ("settings",),
            ("settings", "--json"),
        )
    }


def test_the_worker_and_the_commands_go_through(
    commands: dict[str, subprocess.CompletedProcess[str]], secured_settings: Settings
) -> None:
    for name, ran in commands.items():
        assert (name, ran.returncode, ran.stderr) == (name, 0, "")
    sent = orjson.loads(commands[f"send --text {DOCUMENT} --json"].stdout)
    assert (sent["answered"], sent["errors"]) == (1, {})
    topics = {each["topic"]: each for each in orjson.loads(commands["topics --json"].stdout)}
    assert sum(each["end"] for each in topics[secured_settings.request_topic]["partitions"]) == 1
    findings = orjson.loads(commands["doctor --json"].stdout)
    assert {each["check"]: each["status"] for each in findings}["workers"] == "ok"


def test_secrets_are_told_to_nobody(
    commands: dict[str, subprocess.CompletedProcess[str]],
    secured_worker: StartedWorker,
    secured_settings: Settings,
) -> None:
    told = {"log": secured_worker.log, "repr": repr(secured_settings), "str": str(secured_settings)}
    for name, ran in commands.items():
        told[name] = ran.stdout + ran.stderr
    for path in ("/", "/api/status", "/metrics", "/readyz"):
        told[path] = secured_worker.text(path)
    for file in secured_settings.data_dir.rglob("*"):
        if file.is_file():
            told[str(file)] = file.read_text(errors="replace")
    assert "SaslAuthenticateRequest_v1(hidden)" in told["log"], "nothing was there to be hidden"
    assert str(secured_settings.data_dir / "workers" / f"{secured_worker.process.pid}.json") in told
    for secret in (PASSWORD, TOKEN):
        for form in (secret, base64.b64encode(secret.encode()).decode()):
            assert [where for where, text in told.items() if form in text] == []


def test_the_worker_listens_on_its_page_alone(secured_worker: StartedWorker) -> None:
    process = psutil.Process(secured_worker.process.pid)
    listening = [
        connection.laddr
        for each in (process, *process.children(recursive=True))
        for connection in each.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert secured_worker.url is not None
    assert [f"http://{address.ip}:{address.port}" for address in listening] == [secured_worker.url]
    assert listening[0].ip == "127.0.0.1"


def test_no_page_of_faust_is_there(secured_worker: StartedWorker) -> None:
    for path in ("/table/", "/router/", "/stats/", "/graph/", "/live/", "/production_index/"):
        assert secured_worker.get(path)[0] == 404
