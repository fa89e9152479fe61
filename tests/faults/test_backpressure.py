"""A short version of what is far more than a worker can take: it stays small, and answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from benchmarks.backpressure import OVERLOADS, observe
from benchmarks.faults.deployment import Deployment

SECONDS = 5.0
PAGE_WITHIN_S = 4.0
"""A session ends after 8 s: the page, on the event loop, waits for less."""
GROWTH_MIB = 512
"""64 MiB of requests, what is made of them, and what PyTorch keeps of its first batches."""


@pytest.fixture
def overloaded(site: Deployment) -> Iterator[Deployment]:
    """The same broker; the service after it is another one."""
    before = site.subject
    yield site
    site.subject = before
    site.new_service()


def test_more_than_it_can_take(overloaded: Deployment) -> None:
    overload = replace(OVERLOADS["slow-device"], records=50_000)
    seen = observe(overloaded, overload, SECONDS)
    assert seen.most_mib < seen.ready_mib + GROWTH_MIB
    assert seen.slowest_page_s < PAGE_WITHIN_S
    assert seen.rebalances == 0
