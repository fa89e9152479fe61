"""Mutated records through Kafka, of every compression and with headers of any bytes."""

from __future__ import annotations

import pytest

from app.settings import Settings
from tests.fuzz.through_kafka import Findings, examine, mutated, prepare, write
from tests.integration.conftest import StartWorker, run
from tests.workers import StartedWorker, service_settings

RECORDS = 3_000
SEED = 4


@pytest.fixture(scope="module")
def fuzzed(
    bootstrap_servers: str,
    module_names: str,
    start_worker: StartWorker,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[StartedWorker, Findings]:
    """A worker that was given the records, and what became of them."""
    folder = tmp_path_factory.mktemp("fuzz")
    settings: Settings = service_settings(bootstrap_servers, module_names, folder)
    run(prepare(settings))
    worker = start_worker(settings)
    written = run(write(settings, mutated(settings, RECORDS, SEED)))
    assert len(written) == RECORDS
    return worker, run(examine(settings, written))


def test_every_record_has_one_outcome(fuzzed: tuple[StartedWorker, Findings]) -> None:
    _, findings = fuzzed
    assert findings.problems == []
    assert findings.outcomes.total() == RECORDS
    assert findings.dead_letters == RECORDS - findings.outcomes["ok"]
    assert len(findings.outcomes) >= 9, "too few kinds of outcomes to tell anything"


def test_the_worker_has_not_stumbled(fuzzed: tuple[StartedWorker, Findings]) -> None:
    worker, findings = fuzzed
    assert findings.outcomes["inference_failed"] == 0
    assert worker.get("/readyz")[0] == 200
    assert "Traceback" not in worker.log
