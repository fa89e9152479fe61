"""A client that retries ten times a second does not fill the log."""

from __future__ import annotations

import logging

import pytest

from app.logs import Throttle


def test_a_repeated_error_is_counted_and_others_pass(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("test.throttle")
    throttle = Throttle(repeat_after_s=3600)
    log.addFilter(throttle)
    try:
        with caplog.at_level(logging.INFO, log.name):
            for node in range(5):
                log.error("Unable connect to node with id %s", node)
                log.info("an information")
            log.error("another error")
            throttle._repeat_after_s = 0
            log.error("Unable connect to node with id %s", 7)
    finally:
        log.removeFilter(throttle)
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [
        "Unable connect to node with id 0",
        "another error",
        "Unable connect to node with id 7 (4 more like it)",
    ]
    assert sum(record.levelno == logging.INFO for record in caplog.records) == 5
