"""A short version of every fault of docs/reliability.md: nothing lost, nothing wrongly keyed.

In the order in which the workers of one test serve the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import orjson
import pytest

from benchmarks.faults import scenarios
from benchmarks.faults.counting import Counts
from benchmarks.faults.deployment import Deployment
from benchmarks.faults.subjects import EXACTLY_ONCE, OURS, Subject
from tests.faults import impatient_clients
from tests.integration.conftest import Topics

IMPATIENT = replace(
    OURS, command=("-m", "tests.faults.impatient_clients", "-A", "app", "worker", "-l", "info")
)
FROZEN = {"frozen_s": scenarios.SESSION_S + 2.0, "awake_s": 4.0}


def assert_nothing_is_lost(counts: Counts) -> None:
    assert counts.sent > 100
    assert (counts.lost, counts.wrongly_keyed, counts.failed) == (0, 0, 0), counts


def assert_answered_once(counts: Counts) -> None:
    assert_nothing_is_lost(counts)
    assert counts.duplicated == 0, counts


def test_records_that_cannot_be_decoded_stop_nobody(site: Deployment) -> None:
    assert_answered_once(scenarios.undecodable_records(site, seconds=3.0))


def test_a_broker_that_is_away_for_longer_than_a_session(site: Deployment) -> None:
    assert_nothing_is_lost(scenarios.broker_restarted(site, away_s=scenarios.SESSION_S + 2.0))


def test_a_broker_that_hangs(site: Deployment) -> None:
    assert_nothing_is_lost(scenarios.broker_frozen(site, frozen_s=scenarios.SESSION_S + 1.0))


def test_a_broker_that_is_killed(site: Deployment) -> None:
    assert_nothing_is_lost(scenarios.broker_killed(site, kills=1, away_s=0.0))


def test_a_full_disk_of_the_broker(site: Deployment) -> None:
    assert_nothing_is_lost(scenarios.disk_full(site, full_s=1.0))


def test_a_response_topic_that_may_not_be_written_for_a_while(site: Deployment) -> None:
    counts = scenarios.response_topic_read_only(site, denied_s=8.0)
    assert_nothing_is_lost(counts)
    assert not [remark for remark in counts.remarks if "/readyz" in remark]
    site.workers[0].wait_until_ready()


def test_a_response_topic_that_is_deleted_and_created_again(site: Deployment) -> None:
    assert_nothing_is_lost(scenarios.response_topic_deleted(site, away_s=3.0))


def test_the_only_worker_is_killed(site: Deployment) -> None:
    assert_nothing_is_lost(scenarios.only_worker_killed(site, kills=1))


def test_workers_that_join_and_leave_repeat_nothing(site: Deployment) -> None:
    assert_answered_once(scenarios.members_join_and_leave(site, joining=1))


def test_a_rolling_restart_repeats_nothing(site: Deployment) -> None:
    assert_answered_once(scenarios.rolling_restart(site, workers=2))


def test_workers_that_leave_together_repeat_nothing(site: Deployment) -> None:
    assert_answered_once(scenarios.members_leave_together(site))


def test_one_of_two_workers_is_killed(site: Deployment) -> None:
    assert_nothing_is_lost(scenarios.one_of_two_killed(site, kills=1))


def test_a_worker_that_is_frozen_past_its_session(site: Deployment) -> None:
    assert_nothing_is_lost(scenarios.worker_frozen(site, **FROZEN))


@pytest.mark.parametrize("fault", [scenarios.slow_network, scenarios.cutting_network])
def test_a_bad_network(site: Deployment, fault: Callable[..., Counts]) -> None:
    short = {"slow_s": 5.0} if fault is scenarios.slow_network else {"cuts": 4}
    assert_nothing_is_lost(fault(site, **short))


def test_anything_at_random(site: Deployment) -> None:
    assert_nothing_is_lost(scenarios.anything_at_random(site, seconds=10.0))


@contextmanager
def served_by(site: Deployment, subject: Subject) -> Iterator[Deployment]:
    """The same broker with a service of another subject."""
    before, site.subject = site.subject, subject
    site.new_service()
    yield site
    site.subject = before
    site.new_service()


@pytest.fixture
def impatient(site: Deployment) -> Iterator[Deployment]:
    """A service whose Kafka clients soon give up."""
    with served_by(site, IMPATIENT):
        yield site


def test_a_broker_that_is_away_for_longer_than_every_time_out(impatient: Deployment) -> None:
    counts = scenarios.broker_restarted(impatient, away_s=3 * impatient_clients.TIMEOUT_S)
    assert_nothing_is_lost(counts)
    [worker] = impatient.workers
    assert "not delivered, trying again" in worker.log  # after nothing but a time-out
    assert "everything is delivered again" in worker.log


@pytest.fixture
def exactly_once(site: Deployment) -> Iterator[Deployment]:
    """A service whose delivery is exactly once."""
    with served_by(site, EXACTLY_ONCE):
        yield site


@pytest.mark.parametrize("fault", [scenarios.only_worker_killed, scenarios.worker_frozen])
def test_exactly_once_a_crash_repeats_neither_an_answer_nor_a_dead_letter(
    exactly_once: Deployment, fault: Callable[..., Counts]
) -> None:
    short = FROZEN if fault is scenarios.worker_frozen else {"kills": 1}
    counts = fault(exactly_once, one_in_broken=10, **short)
    assert_answered_once(counts)

    settings = exactly_once.settings
    topics = Topics(exactly_once.broker.address)
    answers = [orjson.loads(one.value) for one in topics.read(settings.response_topic, counts.sent)]
    sources = [answer["source"] for answer in answers if answer["status"] == "error"]
    refused = Counter((source["partition"], source["offset"]) for source in sources)
    assert refused.total() >= counts.sent // 10
    letters = topics.read(settings.dead_letter_topic, refused.total())
    headers = [dict(letter.headers) for letter in letters]
    dead = Counter((int(one["source.partition"]), int(one["source.offset"])) for one in headers)
    assert dead == refused
    assert set(dead.values()) == {1}
