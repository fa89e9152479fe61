"""Short versions of what is far more than a worker can take: it stays small, and answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from benchmarks.backpressure import OVERLOADS, observe
from benchmarks.faults.deployment import Deployment

SECONDS = 5.0
GROWTH_MIB = 512
"""64 MiB of requests, what is made of them, and what PyTorch keeps of its first batches."""


@pytest.fixture
def overloaded(site: Deployment) -> Iterator[Deployment]:
    """The same broker; the service after it is another one."""
    before = site.subject
    yield site
    site.subject = before
    site.new_service()


@pytest.mark.parametrize(("name", "records"), [("large-documents", 300), ("slow-device", 100_000)])
def test_more_than_it_can_take(overloaded: Deployment, name: str, records: int) -> None:
    seen = observe(overloaded, replace(OVERLOADS[name], records=records), SECONDS)
    assert seen.most_mib < seen.ready_mib + GROWTH_MIB
    assert seen.rebalances == 0
