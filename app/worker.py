"""The worker: a Faust app with everything that serving needs, started in order."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faust
import orjson
from aiokafka import AIOKafkaProducer
from faust.app.base import BootStrategy

from app.client import Client
from app.delivery import AtLeastOncePublisher, Publisher
from app.errors import BertstreamError, BrokerError, BrokerRefused, SettingsError
from app.fetching import HEARTBEAT_S
from app.group import GroupView
from app.kafka import client_options, connect
from app.logs import throttle_kafka
from app.recurrence import Recurrence
from app.registry import load_registry
from app.settings import MAX_BATCH_BYTES, Settings
from app.status import WorkerStatus
from app.streams import BatchStream, EventQueue, FlowControl
from app.tables import Table, TableManager, declare_tables, throughput_topic
from app.telemetry import Telemetry, ThroughputReporter
from app.topics import ensure_topics
from app.transactions import ExactlyOncePublisher
from app.transport import Transport
from app.web.server import StatusServer, page_url

if TYPE_CHECKING:
    from models.inference.pool import InferencePool
    from models.inference.registry import ModelRegistry

AGENTS = ("agents.predict", "agents.throughput")
"""Named one by one, so that one which cannot be imported fails the start."""
BROKER_RETRY_S = 1.0
FLUSH_TIMEOUT_S = 1.0
STREAM_BUFFER_RECORDS = 4096
MAX_FAILURES = 3
FAILURES_S = 60.0
"""More failures for a reason of no record than that in this time stop the worker."""
GARBAGE_OBJECTS = 50_000
"""More objects than before: then the collector looks for those that refer to each other."""
STOP_MARGIN_S = 8.0
"""What a stop may take beyond the drain."""


class WithoutFaustWeb(BootStrategy):  # type: ignore[misc]
    """Everything that Faust starts, but its web server: it would show tables and routes."""

    enable_web = False


class BertstreamApp(faust.App):  # type: ignore[misc]
    """Faust app that loads its models and waits for its broker before it takes work."""

    BootStrategy = WithoutFaustWeb

    settings: Settings
    pool: InferencePool
    registry: ModelRegistry | None = None
    client: Client | None = None
    group: GroupView

    def __init__(self, settings: Settings, **options: Any) -> None:
        self.settings = settings
        super().__init__(settings.app_id, **options)
        # The URL of the broker still names Faust's driver; only the classes are ours.
        self.transport = self.producer_transport = Transport(self.conf.broker_consumer, self)
        self.phase = "starting"
        self._failures = Recurrence(MAX_FAILURES, FAILURES_S)
        self.telemetry = Telemetry(settings)
        self.publisher = self._new_publisher()
        self.request_topic = self.topic(
            settings.request_topic,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
        )
        self.throughput_topic = throughput_topic(self, settings)
        self.throughput_tables = declare_tables(self)
        self.status = WorkerStatus(self)
        self.status_server = StatusServer(
            self.status,
            self.predict_one,
            host=settings.web_host,
            port=settings.web_port,
            token=settings.web_token.get_secret_value() if settings.web_token else None,
        )

    def _new_publisher(self) -> Publisher:
        def on_error(error: BaseException) -> None:
            self.add_future(self._read_again("the delivery of an outcome", error))

        once = self.settings.delivery == "exactly-once"
        kind = ExactlyOncePublisher if once else AtLeastOncePublisher
        return kind(self.settings, self.telemetry, lambda: self.consumer, on_error)

    @cached_property
    def flow_control(self) -> FlowControl:
        """The gate between consumer and streams."""
        return FlowControl(loop=self.loop)

    def FlowControlQueue(  # noqa: N802 - as Faust calls it
        self, maxsize: int | None = None, *, clear_on_resume: bool = False
    ) -> EventQueue:
        """A queue between consumer and stream."""
        return EventQueue(
            maxsize=maxsize, flow_control=self.flow_control, clear_on_resume=clear_on_resume
        )

    @property
    def web_server_url(self) -> str:
        """Where the page is to be, for Faust's banner."""
        return page_url(self.settings.web_host, self.settings.web_port)

    def discover(self, *extra_modules: str, **options: Any) -> None:
        """Import the agents; Faust would import every module of this package too."""
        for name in (*AGENTS, *extra_modules):
            import_module(name)

    async def on_first_start(self) -> None:
        """Make the folder that Faust keeps its own in."""
        self.settings.data_dir.mkdir(parents=True, exist_ok=True)
        await super().on_first_start()

    async def on_start(self) -> None:
        """Answer on the web, load the models, wait for the broker, then let Faust begin.

        The models load while the broker is waited for, and before the group is joined: no
        partition is assigned to a worker that cannot serve it yet.
        """
        try:
            await self.add_runtime_dependency(self.status_server)
            self._announce()
            waiting = asyncio.ensure_future(self._wait_for_broker())
            try:
                registry = await asyncio.to_thread(self._load_models)
                await waiting
                if self.settings.find_broker():  # ours began to start after another had answered
                    await self._wait_for_broker()
            finally:
                waiting.cancel()
            if self.should_stop:
                registry.close()
                return
            await self._prepare(registry)
        except BertstreamError as error:
            self.log.critical("%s", error)
            raise SystemExit(2 if isinstance(error, SettingsError) else 1) from None
        await super().on_start()

    async def _prepare(self, registry: ModelRegistry) -> None:
        from models.inference.device import share_cpu
        from models.inference.pool import InferencePool

        settings = self.settings
        self.registry = registry
        await self._ensure_topics()
        cpu_lanes, threads = share_cpu(settings.threads)
        self.pool = InferencePool(
            registry,
            batch_size=settings.batch_size,
            batch_tokens=settings.batch_tokens,
            batch_wait_s=settings.batch_wait_s,
            batch_timeout_s=settings.batch_timeout_s,
            max_in_flight=settings.max_in_flight,
            threads=threads,
            cpu_lanes=cpu_lanes,
            on_batch=self.telemetry.batch_done,
        )
        await self.add_runtime_dependency(self.pool)
        await self.add_runtime_dependency(self.publisher)
        self.status.export_gauges()

    async def on_started(self) -> None:
        """Begin what needs the group and the tables."""
        if self.should_stop:
            return
        self.group = GroupView(self.settings)
        await self.add_runtime_dependency(self.group)
        await self.add_runtime_dependency(
            ThroughputReporter(
                self.telemetry,
                self.throughput_topic.send,
                self.status.facts,
                self.settings.throughput_interval_s,
            )
        )
        while self.client is None:
            try:
                self.client = await Client(self.settings).__aenter__()
            except BrokerError as error:
                self.log.warning("trying again: %s", error)
                await self.sleep(BROKER_RETRY_S)
                if self.should_stop:
                    return
        # Modules and models stay: the collector need not look at them again and again.
        gc.freeze()
        # Nor at the thousands of requests under way, of which none is in a cycle.
        gc.set_threshold(GARBAGE_OBJECTS)
        self.phase = "ready"
        await super().on_started()

    async def on_stop(self) -> None:
        """Finish and commit what has been taken, then stop everything else."""
        self.phase = "draining"
        self._end_in_time()
        await super().on_stop()
        if hanging := self._hanging_threads:
            # They hold what a stop would take from under them; the group is told all the same.
            await self.consumer.stop()
            self.end_at_once(f"{hanging} threads hang on a device: the process ends")
        # Before the pool that they wait for.
        await self.agents.stop()
        if self.client is not None:
            await self.client.__aexit__(None, None, None)
        if self.registry is not None:
            self.registry.close()
        self._announcement.unlink(missing_ok=True)

    @property
    def _hanging_threads(self) -> int:
        pool: InferencePool | None = getattr(self, "pool", None)
        return 0 if pool is None else pool.state()["hanging_threads"]

    def _on_rebalance_when_stopped(self) -> None:
        """Leave the group at the end of the stop, as ever.

        Faust closes its consumer here, in the middle of what is still to be committed, and so
        that the group is not told: the partitions would be silent for the rest of the session.
        """

    def _end_in_time(self) -> None:
        """End the process, for certain, when it has not stopped by itself in time.

        aiokafka waits without end for a broker that went away. What was not acknowledged by then
        is read again.
        """
        limit_s = self.settings.drain_timeout_s + STOP_MARGIN_S
        problem = f"not stopped within {limit_s:.0f} s: the process ends"
        timer = threading.Timer(limit_s, self.end_at_once, (problem,))
        timer.daemon = True
        timer.start()

    def end_at_once(self, problem: str) -> None:
        """End the process and finish nothing; what was not acknowledged is read again."""
        self.log.critical("%s", problem)
        self._announcement.unlink(missing_ok=True)
        os._exit(1)

    async def _on_agent_error(self, agent: Any, error: BaseException) -> None:
        await self._read_again(agent.name, error)

    async def _read_again(self, failed: str, error: BaseException) -> None:
        """Have read again what was taken and not answered, when something failed for a reason that
        no record has to answer for.

        What has been answered is delivered and committed first. What fails again and again stops
        the worker.
        """
        self.log.error("%s failed, what was taken is read again", failed, exc_info=error)
        if self._failures.happened():
            self.log.critical("%s keeps failing, the worker stops", failed)
            await self.crash(error)
            return
        await self.publisher.settle()
        await self.consumer.read_again()

    async def _producer_flush(self, logger: Any) -> None:
        """Wait for what Faust's producer has under way, in a rebalance or a stop."""
        if self._producer is not None and not await self.flush_in_time():
            self.log.warning("statistics are not written yet: the broker does not take them")

    async def flush_in_time(self) -> bool:
        """Whether the broker has everything that the tables and their topic were sent."""
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await self.producer.flush()
        except TimeoutError:
            return False
        return True

    def _load_models(self) -> ModelRegistry:
        began = time.monotonic()
        gc.disable()  # in vain over the thousands of modules that are imported now
        try:
            registry = load_registry(self.settings, lambda message: self.log.info("%s", message))
        finally:
            gc.enable()
        registry.warm_up()
        for model in registry.describe():
            self.log.info(
                "model %s (%s) version %s on %s in %s, %s engine, %.1f s",
                *(model["name"], model["task"], model["version"], model["device"], model["dtype"]),
                model["engine"],
                time.monotonic() - began,
            )
        return registry

    async def _wait_for_broker(self) -> None:
        """Return when a broker answers; says that it is waited for, and why, once a reason.

        Raises:
            BrokerRefused: a broker answers, and waiting will not help.
        """
        said = ""
        while not self.should_stop:
            # Each time: an embedded broker may come up on another port than the last. The one that
            # answers is what every client then connects to.
            self.settings.find_broker()
            brokers = ", ".join(self.settings.bootstrap_servers)
            producer = AIOKafkaProducer(**client_options(self.settings))
            try:
                await connect(producer, self.settings)
            except BrokerRefused:
                raise
            except BrokerError as error:
                if said != str(error):
                    self.log.warning("waiting for the broker at %s: %s", brokers, error)
                said = str(error)
                self.phase = "waiting for broker"
                await self.sleep(BROKER_RETRY_S)
            else:
                self.log.info("the broker at %s answers", brokers)
                self.phase = "starting"
                return
            finally:
                await producer.stop()

    async def _ensure_topics(self) -> None:
        while True:
            try:
                topics = await ensure_topics(self.settings)
            except BrokerError as error:
                # It may go away again before we have begun.
                if not getattr(error.__cause__, "retriable", False):
                    raise
                await self._wait_for_broker()
            else:
                break
        for topic in topics:
            if topic.created:
                self.log.info("topic %s created, partitions=%d", topic.name, topic.partitions)
            elif topic.partitions != topic.wanted_partitions:
                self.log.warning(
                    "topic %s exists with %d partitions and keeps them (asked for: %d)",
                    *(topic.name, topic.partitions, topic.wanted_partitions),
                )

    @property
    def _announcement(self) -> Path:
        return self.settings.data_dir / "workers" / f"{os.getpid()}.json"

    def _announce(self) -> None:
        """Say in a file where the page of this worker is."""
        self._announcement.parent.mkdir(parents=True, exist_ok=True)
        facts = {
            "pid": os.getpid(),
            "name": self.telemetry.worker,
            "web": self.status_server.url,
        }
        self._announcement.write_bytes(orjson.dumps(facts))

    async def predict_one(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one document through the request topic and return its response."""
        if self.client is None:
            raise BrokerError(f"the worker is {self.phase}")
        return await self.client.predict(request)


def create_app(settings: Settings) -> BertstreamApp:
    """The app of a worker with these settings; nothing is started yet."""
    throttle_kafka()
    return BertstreamApp(
        settings,
        broker=settings.broker_urls,
        Stream=BatchStream,
        Table=Table,
        TableManager=TableManager,
        autodiscover=list(AGENTS),
        datadir=settings.data_dir / "faust",
        store="memory://",
        # With standbys Faust would give 4 partitions to 3 workers as 2, 2 and none.
        table_standby_replicas=0,
        topic_partitions=settings.partitions,
        topic_replication_factor=settings.replication,
        topic_allow_declare=settings.create_topics,
        topic_disable_leader=True,
        consumer_auto_offset_reset=settings.auto_offset_reset,
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=HEARTBEAT_S,
        stream_buffer_maxsize=STREAM_BUFFER_RECORDS,
        producer_max_request_size=MAX_BATCH_BYTES,
        web_enabled=False,
    )
