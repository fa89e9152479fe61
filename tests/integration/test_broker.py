"""The embedded broker: a real Kafka, started, stopped, killed and started again."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from app.broker import EmbeddedBroker
from app.errors import BrokerError
from app.kafka_config import HOST
from app.settings import MAX_RECORD_BYTES, MEBIBYTE

pytestmark = pytest.mark.usefixtures("kafka_jars")

DEADLINE_S = 30.0
ROOM_BYTES = 64 * 1024
"""What a record takes beyond its value."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A path of the kind that start scripts stumble over."""
    return tmp_path / "Größe 大 $x" / "broker"


@pytest.fixture
def own(folder: Path) -> Iterator[EmbeddedBroker]:
    """A broker that the test may kill, on a port that no other one takes while it is away."""
    folder.mkdir(parents=True)
    (folder / "port").write_text(str(20_000 + os.getpid() % 10_000))
    with EmbeddedBroker(folder) as broker:
        yield broker


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has asked for its exit status does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def produce(address: str, topic: str, values: list[bytes], **topic_config: str) -> None:
    """Create the topic and send the values, all of them under way at once."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=topic_config)])
    await admin.close()
    size = max(map(len, values)) + ROOM_BYTES
    async with AIOKafkaProducer(bootstrap_servers=address, max_request_size=size) as producer:
        await asyncio.gather(*[await producer.send(topic, value) for value in values])


async def consume(address: str, topic: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest")
    partition = TopicPartition(topic, 0)
    async with consumer:
        consumer.assign([partition])
        async with asyncio.timeout(DEADLINE_S):
            return [(await consumer.getone(partition)).value for _ in range(count)]


def keep(broker: EmbeddedBroker, *values: bytes) -> None:
    asyncio.run(produce(broker.address, "kept", list(values)))


def kept(broker: EmbeddedBroker, count: int) -> list[bytes]:
    return asyncio.run(consume(broker.address, "kept", count))


def test_records_of_16_mib_pass_several_at_once(
    broker: EmbeddedBroker, names: str, tmp_path: Path
) -> None:
    values = [bytes([65 + index]) * MAX_RECORD_BYTES for index in range(8)]
    asyncio.run(
        produce(
            broker.address, names, values, **{"max.message.bytes": str(MAX_RECORD_BYTES + MEBIBYTE)}
        )
    )
    received = asyncio.run(consume(broker.address, names, len(values)))
    assert sorted(received) == values
    assert broker.running


def test_every_compression_is_read(
    kafka_tool: Callable[..., subprocess.CompletedProcess[bytes]], names: str
) -> None:
    kafka_tool("topics", "--create", "--topic", names)
    for codec in ("gzip", "snappy", "lz4", "zstd"):
        lines = f"one of many lines in {codec}\n".encode() * 100
        kafka_tool("console-producer", "--topic", names, "--compression-codec", codec, input=lines)
    consumed = kafka_tool(
        "console-consumer", "--topic", names, "--from-beginning", "--max-messages", "400"
    )
    assert Counter(consumed.stdout.decode().split()[5::6]) == {
        "gzip": 100,
        "snappy": 100,
        "lz4": 100,
        "zstd": 100,
    }


def test_topics_are_not_created_by_the_way(broker: EmbeddedBroker, names: str) -> None:
    async def topics() -> list[str]:
        admin = AIOKafkaAdminClient(bootstrap_servers=broker.address)
        await admin.start()
        try:
            await admin.describe_topics([names])
            listed: list[str] = await admin.list_topics()
            return listed
        finally:
            await admin.close()

    assert names not in asyncio.run(topics())


def test_data_and_port_survive_a_restart(own: EmbeddedBroker, folder: Path) -> None:
    address_file = folder / "address"
    assert address_file.read_text() == own.address
    keep(own, b"a", b"b")
    address, java = own.address, own.pid
    own.stop()
    assert not own.running
    assert not is_alive(java)
    assert not address_file.exists()
    assert (folder / "data" / ".kafka_cleanshutdown").exists()
    own.start()
    assert own.address == address
    assert kept(own, 2) == [b"a", b"b"]


def test_data_survives_a_kill(own: EmbeddedBroker, folder: Path) -> None:
    keep(own, b"a", b"b")
    os.kill(own.pid, signal.SIGKILL)
    assert own.wait(DEADLINE_S)
    assert not own.running
    assert not (folder / "address").exists()
    own.start()
    assert kept(own, 2) == [b"a", b"b"]


def test_a_taken_port_is_replaced_and_said(folder: Path) -> None:
    said: list[str] = []
    broker = EmbeddedBroker(folder, progress=said.append)
    with socket.create_server((HOST, 0)) as other:
        wished = other.getsockname()[1]
        broker.start(wished)
    try:
        assert broker.port not in (0, wished)
        assert said == [f"port {wished} is taken: Kafka listens on {broker.address}"]
    finally:
        broker.stop()


def test_one_broker_a_folder(own: EmbeddedBroker, folder: Path) -> None:
    second = EmbeddedBroker(folder)
    with pytest.raises(BrokerError, match=rf"listens on {own.address} uses .*: stop it first"):
        second.start()
    with pytest.raises(BrokerError, match="stop it first"):
        second.reset()
    assert own.running
    assert (folder / "address").read_text() == own.address


def test_reset_starts_anew(own: EmbeddedBroker, folder: Path) -> None:
    own.stop()
    ids = (folder / "data" / "meta.properties").read_text()
    own.reset()
    assert not (folder / "data").exists()
    own.start()
    assert (folder / "data" / "meta.properties").read_text() != ids


def test_what_kafka_refuses_is_said(folder: Path) -> None:
    broker = EmbeddedBroker(folder, properties={"log.retention.hours": "für immer"})
    with pytest.raises(BrokerError, match=r"für immer.*log\.retention\.hours") as refusal:
        broker.start()
    assert "\n" not in str(refusal.value)
    assert not broker.running


def test_a_listener_can_be_added(folder: Path) -> None:
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]
    listener = dict.fromkeys(("listeners", "advertised.listeners"), f"SSL_LATER://{HOST}:{port}")
    protocols = {
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,"
        "SSL_LATER:PLAINTEXT"
    }
    with EmbeddedBroker(folder, properties=listener | protocols) as broker:
        keep(broker, b"a")
        assert asyncio.run(consume(f"{HOST}:{port}", "kept", 1)) == [b"a"]


STARTER = """
import sys, time
from pathlib import Path
from app.broker import EmbeddedBroker
broker = EmbeddedBroker(Path(sys.argv[1]))
broker.start(port=0)
print(broker.pid, broker.address, flush=True)
time.sleep(600)
"""


def test_nothing_is_left_of_a_starter_that_was_killed(folder: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    with starter.stdout:
        pid, address = starter.stdout.readline().split()
    java = int(pid)
    asyncio.run(produce(address, "kept", [b"a"]))
    assert is_alive(java)
    starter.kill()
    starter.wait()
    successor = EmbeddedBroker(folder)
    successor.start()  # which waits for its predecessor's end
    try:
        assert not is_alive(java)
        assert "since clean shutdown file was found" in successor.log_file.read_text("utf-8")
        assert kept(successor, 1) == [b"a"]
    finally:
        successor.stop()
    assert not (folder / "address").exists()


def test_nothing_is_left_when_the_process_between_was_killed(own: EmbeddedBroker) -> None:
    os.kill(psutil.Process(own.pid).ppid(), signal.SIGKILL)
    assert own.wait(DEADLINE_S)
    own.stop()
    assert not is_alive(own.pid)


def run_broker(*args: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "app.cli", "broker", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def address_said(command: subprocess.Popen[str]) -> str:
    """The address that `bertstream broker` prints when it is ready."""
    assert command.stdout is not None
    line = command.stdout.readline()
    address = re.search(r"listens on (127\.0\.0\.1:\d+) ", line)
    assert address, f"{line}{command.communicate()}"
    return address[1]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_command_runs_until_a_signal(folder: Path, signum: signal.Signals) -> None:
    with run_broker("--port", "0", "--data-dir", str(folder.parent), LC_ALL="C") as command:
        address = address_said(command)
        assert (folder / "address").read_text() == address
        command.send_signal(signum)
        output, errors = command.communicate(timeout=DEADLINE_S)
    assert (command.returncode, output, errors) == (0, "", "")
    assert not (folder / "address").exists()


def test_the_command_says_when_kafka_ends(folder: Path) -> None:
    with run_broker("--port", "0", "--data-dir", str(folder.parent)) as command:
        address_said(command)
        holder = re.search(r'"java": (\d+)', (folder / "lock").read_text())
        assert holder
        os.kill(int(holder[1]), signal.SIGKILL)
        _, errors = command.communicate(timeout=DEADLINE_S)
    assert command.returncode == 1
    assert errors.startswith("bertstream: Kafka ended by itself: it was killed")
    assert errors.count("\n") == 1


def test_the_command_starts_no_broker_beside_a_given_one(tmp_path: Path) -> None:
    with run_broker("--data-dir", str(tmp_path), BERTSTREAM_BROKER_URL="kafka://k:9092") as command:
        output, errors = command.communicate(timeout=DEADLINE_S)
    assert command.returncode == 2
    assert output == ""
    assert errors.startswith("bertstream: no broker is started because BERTSTREAM_BROKER_URL is")
    assert not list(tmp_path.iterdir())


def test_an_event_loop_goes_on_while_a_broker_starts(folder: Path) -> None:
    async def start() -> int:
        ticks = 0
        starting = asyncio.create_task(asyncio.to_thread(broker.start))
        while not starting.done():
            await asyncio.sleep(0.01)
            ticks += 1
        await starting
        await asyncio.to_thread(broker.stop)
        return ticks

    broker = EmbeddedBroker(folder)
    assert asyncio.run(start()) > 10
    assert threading.active_count() < 20
