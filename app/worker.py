"""The worker: a Faust app with everything that serving needs, started in order."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import time
from contextlib import suppress
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import faust
import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from faust.app.base import BootStrategy

from app.client import Client
from app.delivery import Publisher
from app.errors import BertstreamError, BrokerError
from app.group import GroupView
from app.kafka import client_options
from app.records import Throughput
from app.settings import MAX_RECORD_BYTES, Settings
from app.streams import BatchStream
from app.tables import declare_tables
from app.telemetry import Telemetry, ThroughputReporter
from app.topics import ensure_topics
from app.transport import HEARTBEAT_S, SESSION_TIMEOUT_S, Transport
from app.web.server import StatusServer

if TYPE_CHECKING:
    from models.inference.pool import InferencePool
    from models.inference.registry import ModelRegistry

AGENTS = ("agents.predict", "agents.throughput")
"""Named one by one, so that one which cannot be imported fails the start."""
BROKER_RETRY_S = 1.0
BROKER_SILENCE_S = 10.0
"""The broker counts as gone when it has not answered for longer."""
STREAM_BUFFER_RECORDS = 4096
PARENT_POLL_S = 0.5


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
        self.telemetry = Telemetry(settings)
        self.publisher = Publisher(settings, self.telemetry)
        self.request_topic = self.topic(
            settings.request_topic,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
        )
        self.throughput_topic = self.topic(
            settings.throughput_topic,
            key_type=str,
            value_type=Throughput,
            partitions=1,
        )
        self.throughput_tables = declare_tables(self)
        self.status_server = StatusServer(
            self,
            self.predict_one,
            host=settings.web_host,
            port=settings.web_port,
            token=settings.web_token.get_secret_value() if settings.web_token else None,
        )

    def discover(self, *extra_modules: str, **options: Any) -> None:
        """Import the agents; Faust would import every module of this package too."""
        for name in (*AGENTS, *extra_modules):
            import_module(name)

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
            finally:
                waiting.cancel()
            if self.should_stop:
                registry.close()
                return
            await self._prepare(registry)
        except BertstreamError as error:
            self.log.critical("%s", error)
            raise SystemExit(1) from None
        await super().on_start()

    async def _prepare(self, registry: ModelRegistry) -> None:
        from models.inference.pool import InferencePool

        settings = self.settings
        self.registry = registry
        await self._ensure_topics()
        self.pool = InferencePool(
            registry,
            batch_size=settings.batch_size,
            batch_tokens=settings.batch_tokens,
            batch_wait_s=settings.batch_wait_s,
            max_in_flight=settings.max_in_flight,
            threads=settings.threads,
            on_batch=self.telemetry.batch_done,
        )
        await self.add_runtime_dependency(self.pool)
        await self.add_runtime_dependency(self.publisher)
        self._export_gauges()

    async def on_started(self) -> None:
        """Begin what needs the group and the tables."""
        if self.should_stop:
            return
        self.group = GroupView(
            self.settings,
            (
                self.throughput_tables.windows.table.changelog_topic.get_topic_name(),
                self.throughput_tables.totals.changelog_topic.get_topic_name(),
            ),
        )
        await self.add_runtime_dependency(self.group)
        await self.add_runtime_dependency(
            ThroughputReporter(
                self.telemetry,
                self.throughput_topic.send,
                self._facts,
                self.settings.throughput_interval_s,
            )
        )
        try:
            self.client = await Client(self.settings).__aenter__()
        except BrokerError as error:
            await self.crash(error)
            return
        self.phase = "ready"
        await super().on_started()

    async def on_stop(self) -> None:
        """Finish and commit what has been taken, then stop everything else."""
        self.phase = "draining"
        await super().on_stop()
        # Before the pool that they wait for.
        await self.agents.stop()
        if self.client is not None:
            await self.client.__aexit__(None, None, None)
        if self.registry is not None:
            self.registry.close()
        with suppress(FileNotFoundError):
            self._announcement.unlink()

    def _load_models(self) -> ModelRegistry:
        from models.inference.registry import ModelRegistry

        settings = self.settings
        began = time.monotonic()
        registry = ModelRegistry.load(
            settings.models,
            device=settings.device,
            dtype=settings.dtype,
            trust_remote_code=settings.trust_remote_code,
            allow_pickle=settings.allow_pickle,
            aggregation=settings.aggregation,
            segment_overlap=settings.segment_overlap,
            progress=lambda message: self.log.info("%s", message),
        )
        registry.warm_up()
        for model in registry.describe():
            self.log.info(
                "model %s (%s) version %s on %s in %s, %.1f s",
                *(model["name"], model["task"], model["version"], model["device"], model["dtype"]),
                time.monotonic() - began,
            )
        return registry

    async def _wait_for_broker(self) -> None:
        """Return when a broker answers; says once that it is waited for."""
        while not self.should_stop:
            # Asked for each time: an embedded broker may come up on another port than the last.
            brokers = ", ".join(self.settings.bootstrap_servers)
            producer = AIOKafkaProducer(**client_options(self.settings))
            try:
                await producer.start()
            except KafkaError as error:
                if self.phase != "waiting for broker":
                    self.log.warning("waiting for the broker at %s: %s", brokers, error)
                self.phase = "waiting for broker"
                await self.sleep(BROKER_RETRY_S)
            else:
                self.log.info("the broker at %s answers", brokers)
                return
            finally:
                await producer.stop()

    async def _ensure_topics(self) -> None:
        for topic in await ensure_topics(self.settings):
            if topic.created:
                self.log.info("topic %s created, partitions=%d", topic.name, topic.partitions)
            elif topic.partitions != topic.wanted_partitions:
                self.log.warning(
                    "topic %s exists with %d partitions and keeps them (asked for: %d)",
                    *(topic.name, topic.partitions, topic.wanted_partitions),
                )

    @property
    def _announcement(self) -> Any:
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

    def _assigned(self) -> list[int]:
        """Partitions of the request topic that this worker reads."""
        if self._consumer is None or self.phase == "starting":
            return []
        return sorted(
            tp.partition
            for tp in self.consumer.assignment()
            if tp.topic == self.settings.request_topic
        )

    def _facts(self) -> dict[str, Any]:
        assert self.registry is not None
        models = self.registry.describe()
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "page": self.status_server.url,
            "partitions": self._assigned(),
            "devices": sorted({model["device"] for model in models}),
            "dtype": models[0]["dtype"],
        }

    def _export_gauges(self) -> None:
        gauge, pool = self.telemetry.gauge, self.pool
        gauge(
            "bertstream_queued_documents",
            "Documents in the pool",
            lambda: pool.state()["documents"],
        )
        gauge("bertstream_queued_tokens", "Tokens in the pool", lambda: pool.state()["tokens"])
        gauge(
            "bertstream_batches_in_flight",
            "Device batches under way",
            lambda: pool.state()["batches_in_flight"],
        )
        gauge(
            "bertstream_awaiting_delivery",
            "Outcomes that the broker has not confirmed yet",
            lambda: self.publisher.awaiting_delivery,
        )
        gauge("bertstream_assigned_partitions", "Partitions read", lambda: len(self._assigned()))
        gauge("bertstream_ready", "Whether work can be taken", lambda: not self.readiness())

    async def predict_one(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one document through the request topic and return its response."""
        if self.client is None:
            raise BrokerError("; ".join(self.readiness()) or "the worker is starting")
        return await self.client.predict(request)

    def readiness(self) -> list[str]:
        """Why the worker cannot take work: nothing, where it can."""
        if self.phase != "ready":
            return [self.phase]
        reasons = []
        if self.rebalancing:
            reasons.append("rebalancing")
        elif not self._assigned():
            reasons.append("no partition is assigned to this worker")
        if self.group.seconds_since_answer > BROKER_SILENCE_S:
            reasons.append(
                f"the broker has not answered for {self.group.seconds_since_answer:.0f} s"
            )
        return reasons

    def metrics(self) -> bytes:
        """Metrics of this worker for Prometheus."""
        return self.telemetry.metrics()

    def status(self) -> dict[str, Any]:
        """What the status page shows."""
        settings, reasons = self.settings, self.readiness()
        ready = self.phase == "ready"
        state = self.phase if not ready or not self.rebalancing else "rebalancing"
        return {
            "worker": {
                "name": self.telemetry.worker,
                "version": version("bertstream"),
                "pid": os.getpid(),
                "started_at": self.telemetry.started_at,
                "uptime_s": time.time() - self.telemetry.started_at,
                "state": state,
                "ready": not reasons,
                "reasons": reasons,
                "group": settings.app_id,
                "delivery": settings.delivery,
                "python": platform.python_version(),
                "torch": version("torch"),
            },
            "broker": {
                "addresses": settings.bootstrap_servers,
                "connected": ready and self.group.seconds_since_answer < BROKER_SILENCE_S,
                "topics": {
                    "requests": settings.request_topic,
                    "responses": settings.response_topic,
                    "dead_letters": settings.dead_letter_topic,
                    "throughput": settings.throughput_topic,
                },
            },
            "models": self.registry.describe() if self.registry is not None else [],
            "throughput": self.group.throughput() if ready else None,
            "errors": self.group.errors() if ready else {},
            "labels": self.group.labels() if ready else {},
            "partitions": self.group.partitions() if ready else [],
            "queue": {
                **(self.pool.state() if ready else {}),
                "awaiting_delivery": self.publisher.awaiting_delivery,
            },
            "workers": self.group.workers() if ready else [],
        }


def create_app(settings: Settings) -> BertstreamApp:
    """The app of a worker with these settings; nothing is started yet."""
    return BertstreamApp(
        settings,
        broker=settings.broker_urls,
        Stream=BatchStream,
        autodiscover=list(AGENTS),
        datadir=settings.data_dir / "faust",
        store="memory://",
        topic_partitions=settings.partitions,
        topic_replication_factor=settings.replication,
        topic_allow_declare=settings.create_topics,
        topic_disable_leader=True,
        consumer_auto_offset_reset=settings.auto_offset_reset,
        broker_session_timeout=SESSION_TIMEOUT_S,
        broker_heartbeat_interval=HEARTBEAT_S,
        broker_commit_interval=1.0,
        stream_buffer_maxsize=STREAM_BUFFER_RECORDS,
        producer_max_request_size=MAX_RECORD_BYTES,
        web_enabled=False,
    )
