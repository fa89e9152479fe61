"""Fixtures that several tiers of tests share, Kafka's above all."""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.broker import EmbeddedBroker
from app.errors import BrokerError
from app.kafka_jars import find_jars, java_command, java_environment

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[1]
if not (Path.home() / ".m2" / "repository").is_dir():
    # Else each `DATA_DIR` of a test would get Kafka's 46 MB of its own.
    os.environ.setdefault("M2_REPO", str(ROOT / ".bertstream" / "m2"))

KafkaTool = Callable[..., subprocess.CompletedProcess[bytes]]

KAFKA_TOOLS = {
    "console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "topics": "org.apache.kafka.tools.TopicCommand",
}
"""Main class of what Kafka's own distribution starts as `kafka-<name>.sh`."""


@pytest.fixture(scope="session")
def agnews() -> Path:
    """Folder of the documents of AG News, which are not ours to ship."""
    beside = ROOT.parent / "shared" / "data" / "agnews"
    folder = Path(os.environ.get("BERTSTREAM_AGNEWS", beside))
    if not (folder / "dev.jsonl").is_file():
        pytest.skip(f"no documents of AG News in {folder}; BERTSTREAM_AGNEWS names their folder")
    return folder


@pytest.fixture(scope="session")
def kafka_jars(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Kafka's jars; skips where this machine cannot have them."""
    try:
        folder = tmp_path_factory.mktemp("kafka")
        return find_jars(folder / "jars", folder / "m2")
    except BrokerError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def broker(
    kafka_jars: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedBroker]:
    """A real Kafka for the whole run of the tests, which must not stop it."""
    broker = EmbeddedBroker(
        tmp_path_factory.mktemp("data") / "broker",
        # Else a test would wait 15 s for records to be compacted away.
        properties={"log.cleaner.backoff.ms": "500"},
    )
    broker.start(port=0)
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def bootstrap_servers(broker: EmbeddedBroker) -> str:
    """`host:port` of the broker."""
    return broker.address


@pytest.fixture
def names(request: pytest.FixtureRequest) -> str:
    """A prefix for topics and groups that no other test has."""
    test = re.sub(r"[^A-Za-z0-9._-]+", "-", request.node.name)[:60].strip("-")
    return f"{test}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def kafka_tool(kafka_jars: list[Path], bootstrap_servers: str) -> KafkaTool:
    """Runs one of Kafka's own command-line clients on the broker.

    `kafka_tool("console-producer", "--topic", topic, input=b"...")` is
    `kafka-console-producer.sh`; it raises CalledProcessError or TimeoutExpired.
    """

    def run(
        name: str,
        *args: str,
        input: bytes = b"",  # noqa: A002 - as in subprocess.run
        timeout_s: float = 60.0,
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            java_command(
                kafka_jars,
                KAFKA_TOOLS[name],
                *("--bootstrap-server", bootstrap_servers, *args),
                options=("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"),
            ),
            env=java_environment(),
            input=input,
            capture_output=True,
            check=True,
            timeout=timeout_s,
        )

    return run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not hasattr(report, "wasxfail"):
        _fail_if_skipped_in_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped_in_ci(report)
    return report


def _fail_if_skipped_in_ci(report: Any) -> None:
    """With `CI=true` green means that every test ran."""
    if report.skipped and os.environ.get("CI") == "true":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI=true does not allow: {reason}"
