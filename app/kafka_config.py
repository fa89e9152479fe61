"""What the embedded Kafka is set to."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from app.settings import MAX_RECORD_BYTES, MEBIBYTE

HOST = "127.0.0.1"

JVM_OPTIONS = (
    "-Xmx512m",
    # Without the second compiler a start takes 1.7 s of CPU instead of 2.9, and the first million
    # records half as much (measured).
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",  # records of 16 MiB fragment G1's regions
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    "-Djava.io.tmpdir=tmp",  # for the native libraries that compressors unpack
    "-Dlog4j2.configurationFile=log4j2.xml",
)

SERVER_PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,"
    "SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL",
    "log.dirs": "data",
    "auto.create.topics.enable": "false",
    # One node, and few partitions, which are quick to create and to load.
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "50",
    # After a kill the controller takes the broker for alive, and refuses its successor, this long.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # Records of 16 MiB, with room for their headers, and a bound on those in memory at once.
    "message.max.bytes": str(MAX_RECORD_BYTES + MEBIBYTE),
    "replica.fetch.max.bytes": str(MAX_RECORD_BYTES + MEBIBYTE),
    # Kafka's own limit, which producers count on, and as much for all requests that wait.
    "socket.request.max.bytes": str(100 * MEBIBYTE),
    "queued.max.request.bytes": str(100 * MEBIBYTE),
    # The cleaner's map must hold every key of a segment, at 24 bytes a key.
    "log.cleaner.dedupe.buffer.size": str(64 * MEBIBYTE),
    "log.segment.bytes": str(256 * MEBIBYTE),
    "log.retention.hours": "168",
    # A group that was away for a while should not read again what is still kept.
    "offsets.retention.minutes": str(30 * 24 * 60),
}

LOG4J2 = """\
<Configuration status="error" shutdownHook="disable">
  <Appenders>
    <RollingFile name="server" fileName="logs/server.log" filePattern="logs/server.%i.log">
      <PatternLayout pattern="%d %-5p %c{1} %m%n" charset="UTF-8"/>
      <SizeBasedTriggeringPolicy size="10 MB"/>
      <DefaultRolloverStrategy max="3"/>
    </RollingFile>
  </Appenders>
  <Loggers><Root level="info"><AppenderRef ref="server"/></Root></Loggers>
</Configuration>
"""
"""Kafka's log, in a file that is replaced when it has grown; relative to Kafka's folder."""


def server_properties(port: int, controller_port: int, added: Mapping[str, str]) -> str:
    """The configuration as a Java properties file, which knows ASCII and escapes.

    `added` properties go before ours, except that listeners are added to ours.
    """
    listener = f"PLAINTEXT://{HOST}:{port}"
    properties = SERVER_PROPERTIES | {
        "listeners": f"{listener},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": listener,
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
    }
    for name, value in added.items():
        more = name in ("listeners", "advertised.listeners")
        properties[name] = f"{properties[name]},{value}" if more else value
    return "".join(f"{name}={_escaped(value)}\n" for name, value in properties.items())


def _escaped(value: str) -> str:
    units = struct.iter_unpack(">H", value.encode("utf-16-be"))
    return "".join(
        chr(unit) if 0x20 <= unit < 0x7F and unit != 0x5C else f"\\u{unit:04x}" for (unit,) in units
    )
