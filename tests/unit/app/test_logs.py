"""A client that retries ten times a second does not fill the log."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import SaslAuthenticateRequest_v1

from app.logs import Throttle, Unclaimed, hide_credentials


def test_a_repeated_error_is_counted_and_others_pass(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("test.throttle")
    throttle = Throttle(repeat_after_s=3600)
    log.addFilter(throttle)
    try:
        with caplog.at_level(logging.INFO, log.name):
            for node in range(5):
                log.error("Unable connect to node with id %s", node)
                log.info("an information")
                log.error(f"error of record {node}")
            log.error("another error")
            throttle._repeat_after_s = 0
            log.error("Unable connect to node with id %s", 7)
    finally:
        log.removeFilter(throttle)
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [
        "Unable connect to node with id 0",
        "error of record 0",
        "another error",
        "Unable connect to node with id 7 (4 more like it)",
    ]
    assert sum(record.levelno == logging.INFO for record in caplog.records) == 5


def test_what_authenticates_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="aiokafka.conn")
    hide_credentials()
    logger = logging.getLogger("aiokafka.conn")
    request = SaslAuthenticateRequest_v1(b"\0alice\0sesame")
    logger.debug("Request to %s:%d %d: %s", "127.0.0.1", 9092, 7, request)
    logger.debug("Response from %s:%d %d: %s", "127.0.0.1", 9092, 7, b"fine")
    assert "sesame" in repr(request), "nothing to be hidden"
    assert "sesame" not in caplog.text
    assert "SaslAuthenticateRequest" in caplog.messages[0]
    assert caplog.messages[1].endswith("7: b'fine'")


def test_only_errors_of_kafka_may_go_unclaimed(caplog: pytest.LogCaptureFixture) -> None:
    unclaimed = Unclaimed()
    logging.getLogger("asyncio").addFilter(unclaimed)

    async def fail() -> None:
        for error in (KafkaError("of Kafka"), ValueError("of ours")):
            asyncio.get_running_loop().create_future().set_exception(error)

    try:
        asyncio.run(fail())
        gc.collect()
    finally:
        logging.getLogger("asyncio").removeFilter(unclaimed)
    assert "of ours" in caplog.text
    assert "of Kafka" not in caplog.text
