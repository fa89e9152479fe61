"""Records that arrive late, behind later ones, are neither lost nor answered twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from benchmarks.faults import scenarios
from benchmarks.faults.deployment import Deployment
from benchmarks.faults.subjects import OURS

LATE = replace(
    OURS, command=("-m", "tests.faults.late_fetches", "-A", "app", "worker", "-l", "info")
)


@pytest.fixture
def late(site: Deployment) -> Iterator[Deployment]:
    """A service on the same broker, with workers that are late."""
    before, site.subject = site.subject, LATE
    site.new_service()
    yield site
    site.subject = before
    site.new_service()


def test_a_rebalance_with_records_that_arrive_late(late: Deployment) -> None:
    counts = scenarios.members_join_and_leave(late, joining=1)
    assert counts.sent > 100
    assert (counts.lost, counts.duplicated, counts.wrongly_keyed, counts.failed) == (0, 0, 0, 0)
