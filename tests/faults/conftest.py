"""One broker and one service, harmed by one test after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults.deployment import Deployment

RATE = 150.0
"""Requests per second, which one worker answers on a small machine beside the rest."""


@pytest.fixture(scope="session")
def site(kafka_jars: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A broker of its own, since the tests stop and kill it, and a service on it.

    Workers live on from test to test, as each scenario asks for as many as it needs.
    """
    with Deployment(tmp_path_factory.mktemp("faults"), rate=RATE, steady_s=1.5) as site:
        yield site
