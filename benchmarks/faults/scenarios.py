"""The faults: what is done to a service while a load goes on.

Each takes a deployment, does its harm, lets the service come back, and returns the counts. The
defaults are those of the table in docs/reliability.md; the tests run them shorter.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from app.settings import Settings
from benchmarks.faults.counting import Counts
from benchmarks.faults.deployment import Deployment

SEED = 20240229
SESSION_S: float = Settings.model_fields["session_timeout_s"].default
"""The session time-out of a worker of bertstream, which a pause must exceed to be a fault."""

MOST_WORKERS = 3
OVERLOAD = 2
"""Times the usual load: more than the workers answer, so that they have much to finish."""


def members_join_and_leave(site: Deployment, joining: int = 2) -> Counts:
    """A second and a third worker join, then the first leaves."""
    site.have_workers(1)
    with site.load() as load:
        load.run_for(site.steady_s)
        for _ in range(joining):
            site.start_worker().wait_until_ready()
            load.run_for(site.steady_s)
        site.stop_worker(site.workers[0])
        load.run_for(site.steady_s)
        return load.drain()


def members_leave_together(site: Deployment, rounds: int = 1, apart_s: float = 1.5) -> Counts:
    """Two of three workers leave with much before them, one while the group rebalances."""
    site.have_workers(3)
    with site.load(rate=OVERLOAD * site.rate) as load:
        for _ in range(rounds):
            site.have_workers(3)
            load.run_for(site.steady_s)
            leaving = [site.workers.pop(0) for _ in range(2)]
            for worker in leaving:
                worker.process.terminate()
                load.run_for(apart_s)
            for worker in leaving:
                worker.stop()
        return load.drain()


def rolling_restart(site: Deployment, workers: int = 3) -> Counts:
    """Three workers, each in turn stopped and started again."""
    site.have_workers(workers)
    with site.load() as load:
        load.run_for(site.steady_s)
        for _ in range(workers):
            site.stop_worker(site.workers[0])
            site.start_worker().wait_until_ready()
            load.run_for(site.steady_s)
        return load.drain()


def long_documents(site: Deployment, seconds: float = 16.0) -> Counts:
    """A worker joins, and one leaves, while documents of 192 KiB are predicted."""
    site.have_workers(1)
    rate = site.rate / 3
    with site.load(rate=rate, one_in_long=int(rate * seconds / 2)) as load:
        site.start_worker().wait_until_ready()
        load.run_for(seconds)
        site.stop_worker(site.workers[0])
        load.run_for(site.steady_s)
        return load.drain()


def only_worker_killed(
    site: Deployment, kills: int = 4, seed: int = SEED, one_in_broken: int = 0
) -> Counts:
    """`kill -9` of the only worker at random moments, started again at once."""
    site.have_workers(1)
    moments = random.Random(seed)
    with site.load(one_in_broken=one_in_broken) as load:
        for _ in range(kills):
            load.run_for(moments.uniform(1.0, 5.0))
            site.kill_worker(site.workers[0])
            site.start_worker()
            load.run_until_answers_come()
        load.run_for(site.steady_s)
        return load.drain()


def one_of_two_killed(site: Deployment, kills: int = 2, seed: int = SEED) -> Counts:
    """`kill -9` of a worker while another one lives, and then of that one."""
    site.have_workers(2)
    moments = random.Random(seed)
    with site.load() as load:
        for _ in range(kills):
            site.have_workers(2)
            load.run_for(moments.uniform(2.0, 5.0))
            site.kill_worker(site.workers[0])
            load.run_for(SESSION_S + 4.0)
        return load.drain()


def worker_frozen(
    site: Deployment,
    frozen_s: float = 3 * SESSION_S,
    awake_s: float = SESSION_S + 2.0,
    one_in_broken: int = 0,
) -> Counts:
    """SIGSTOP of a worker past its session time-out while another one lives, then SIGCONT."""
    frozen, _ = site.have_workers(2)
    with site.load(one_in_broken=one_in_broken) as load:
        load.run_for(site.steady_s)
        frozen.process.send_signal(signal.SIGSTOP)
        try:
            load.run_for(frozen_s)
        finally:
            frozen.process.send_signal(signal.SIGCONT)
        load.run_for(awake_s)
        return load.drain()


def broker_restarted(site: Deployment, away_s: float = 2.0) -> Counts:
    """The broker stops cleanly and starts again."""
    site.have_workers(1)
    with site.load() as load:
        load.run_for(site.steady_s)
        site.stop_broker()
        load.run_for(away_s)
        site.start_broker()
        load.run_until_answers_come()
        load.run_for(site.steady_s)
        return load.drain()


def broker_killed(site: Deployment, kills: int = 2, away_s: float = 2.0) -> Counts:
    """`kill -9` of the broker, started again on its data, repeatedly."""
    site.have_workers(1)
    with site.load() as load:
        for _ in range(kills):
            load.run_for(site.steady_s)
            site.kill_broker()
            load.run_for(away_s)
            site.start_broker()
            load.run_until_answers_come()
        load.run_for(site.steady_s)
        return load.drain()


def broker_frozen(site: Deployment, frozen_s: float = 3 * SESSION_S) -> Counts:
    """The broker hangs, its connections open, for longer than a session of the group."""
    site.have_workers(1)
    with site.load() as load:
        load.run_for(site.steady_s)
        os.kill(site.broker.pid, signal.SIGSTOP)
        try:
            load.run_for(frozen_s)
        finally:
            os.kill(site.broker.pid, signal.SIGCONT)
        load.run_until_answers_come()
        load.run_for(site.steady_s)
        return load.drain()


def broker_away_for_long(site: Deployment, away_s: float = 60.0) -> Counts:
    """The broker is away for longer than every time-out of a client (aiokafka: 40 s)."""
    return broker_restarted(site, away_s)


def response_topic_deleted(site: Deployment, away_s: float = 10.0) -> Counts:
    """The response topic is deleted, and some time later created again."""
    site.have_workers(1)
    topic = site.settings.response_topic
    with site.load() as load:
        load.run_for(site.steady_s)
        load.receive(site.delete_topic(topic))
        load.run_for(away_s)
        site.create_topics()
        load.read_again_from_the_beginning()
        load.run_until_answers_come()
        load.run_for(site.steady_s)
        return load.drain()


def response_topic_read_only(site: Deployment, denied_s: float = 15.0) -> Counts:
    """An access rule forbids to write the response topic for a while."""
    [worker] = site.have_workers(1)
    topic = site.settings.response_topic
    with site.load() as load:
        load.run_for(site.steady_s)
        site.set_read_only(topic)
        try:
            load.run_for(denied_s)
            if site.subject.has_probes:
                status, found = worker.get("/readyz")
                if status != 503 or "no response could be delivered" not in str(found):
                    load.ledger.remark("/readyz does not say that responses cannot be written")
        finally:
            site.set_writable(topic)
        load.run_until_answers_come()
        load.run_for(site.steady_s)
        return load.drain()


def disk_full(site: Deployment, full_s: float = 5.0) -> Counts:
    """The disk of the broker is full, so that it ends; it starts again once there is room."""
    site.have_workers(1)
    with site.load() as load:
        load.run_for(site.steady_s)
        site.fill_disk()
        load.run_for(full_s)
        site.start_broker()
        load.run_until_answers_come()
        load.run_for(site.steady_s)
        return load.drain()


def slow_network(site: Deployment, slow_s: float = 20.0) -> Counts:
    """50 ms each way and 64 KiB/s for each connection between worker and broker."""
    site.have_workers(1, through_proxy=True)
    with site.load() as load:
        load.run_for(site.steady_s)
        site.proxy.delay_s, site.proxy.bytes_per_s = 0.05, 64 * 1024
        try:
            load.run_for(slow_s)
        finally:
            site.proxy.delay_s, site.proxy.bytes_per_s = 0.0, None
        load.run_for(site.steady_s)
        return load.drain()


def cutting_network(site: Deployment, cuts: int = 15, seed: int = SEED) -> Counts:
    """Every connection between worker and broker is reset, again and again."""
    site.have_workers(1, through_proxy=True)
    moments = random.Random(seed)
    with site.load() as load:
        for _ in range(cuts):
            load.run_for(moments.uniform(0.1, 2.0))
            assert site.proxy.cut(), "the workers are not behind the proxy"
        load.run_until_answers_come()
        load.run_for(site.steady_s)
        return load.drain()


def undecodable_records(site: Deployment, seconds: float = 15.0) -> Counts:
    """One record in 50 cannot be decoded."""
    site.have_workers(1)
    with site.load(one_in_broken=50) as load:
        load.run_for(seconds)
        return load.drain()


def agent_raises(site: Deployment, seconds: float = 15.0) -> Counts:
    """The agent raises twice, for a reason of no record."""
    sound = site.subject
    assert sound.failing is not None
    site.subject = replace(sound, **sound.failing)
    site.new_service()
    try:
        site.have_workers(1)
        with site.load() as load:
            load.run_for(seconds)
            return load.drain()
    finally:
        site.subject = sound
        site.new_service()


def anything_at_random(site: Deployment, seconds: float = 60.0, seed: int = SEED) -> Counts:
    """Workers join, leave, are killed and frozen, connections cut and brokers killed, at random."""
    site.have_workers(2, through_proxy=True)
    choice = random.Random(seed)
    with site.load() as load:

        def join() -> None:
            if len(site.workers) < MOST_WORKERS:
                site.start_worker()

        def leave() -> None:
            site.stop_worker(choice.choice(site.workers))

        def kill() -> None:
            site.kill_worker(choice.choice(site.workers))

        def freeze() -> None:
            process = choice.choice(site.workers).process
            process.send_signal(signal.SIGSTOP)
            load.run_for(choice.uniform(0.0, 2 * SESSION_S))
            process.send_signal(signal.SIGCONT)

        def cut() -> None:
            site.proxy.cut()

        def restart_broker() -> None:
            site.stop_broker()
            site.start_broker()

        def kill_broker() -> None:
            site.kill_broker()
            site.start_broker()

        harms = (join, leave, kill, freeze, cut, restart_broker, kill_broker)
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            load.run_for(choice.uniform(0.0, 4.0))
            choice.choice(harms)()
            if not site.workers:
                site.start_worker()
        load.run_until_answers_come()
        load.run_for(site.steady_s)
        return load.drain()


@dataclass(frozen=True)
class Scenario:
    """A fault of the table."""

    run: Callable[[Deployment], Counts]
    planned: bool = False
    """Whether nothing may be answered twice, since nothing crashes."""

    @property
    def name(self) -> str:
        return self.run.__name__.replace("_", "-")

    @property
    def title(self) -> str:
        """What happens, in a line."""
        assert self.run.__doc__ is not None
        return self.run.__doc__.strip().splitlines()[0].rstrip(".")


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(members_join_and_leave, planned=True),
        Scenario(members_leave_together, planned=True),
        Scenario(rolling_restart, planned=True),
        Scenario(long_documents, planned=True),
        Scenario(only_worker_killed),
        Scenario(one_of_two_killed),
        Scenario(worker_frozen),
        Scenario(broker_restarted),
        Scenario(broker_killed),
        Scenario(broker_frozen),
        Scenario(broker_away_for_long),
        Scenario(response_topic_deleted),
        Scenario(response_topic_read_only),
        Scenario(disk_full),
        Scenario(slow_network),
        Scenario(cutting_network),
        Scenario(undecodable_records, planned=True),
        Scenario(agent_raises, planned=True),
        Scenario(anything_at_random),
    )
}
CRASHES = ("only-worker-killed", "one-of-two-killed", "worker-frozen", "broker-killed")
"""What can make a worker answer twice."""
