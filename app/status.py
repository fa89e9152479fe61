"""What a worker tells of itself: on its page, to probes, in its metrics, to the other workers."""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.worker import BertstreamApp

BROKER_SILENCE_S = 10.0
"""The broker counts as gone when it has not answered for longer."""
NO_WORK: dict[str, Any] = {
    "throughput": None,
    "errors": {},
    "labels": {},
    "dead_letters": {"records": None, "latest": None, "recent": {}},
    "partitions": [],
    "workers": [],
    "queue": {},
}
"""What there is to tell of the work before it begins."""


class WorkerStatus:
    """Reads the state of a worker; cheap, and it never waits."""

    def __init__(self, app: BertstreamApp) -> None:
        self._app = app

    @property
    def is_ready(self) -> bool:
        """Whether the worker has started and is not stopping."""
        return self._app.phase == "ready"

    def assigned(self) -> list[int]:
        """Partitions of the request topic that this worker reads."""
        if not self.is_ready:
            return []
        topic = self._app.settings.request_topic
        return sorted(tp.partition for tp in self._app.consumer.assignment() if tp.topic == topic)

    def readiness(self) -> list[str]:
        """Why the worker cannot take work: nothing, where it can."""
        if not self.is_ready:
            return [self._app.phase]
        reasons = []
        if self._app.rebalancing:
            reasons.append("rebalancing")
        elif not self._app.consumer_generation_id:
            reasons.append("the group has not assigned partitions yet")
        silence_s = self._app.group.seconds_since_answer
        if silence_s > BROKER_SILENCE_S:
            reasons.append(f"the broker has not answered for {silence_s:.0f} s")
        if (stalled := self._app.publisher.stalled) is not None:
            reasons.append(stalled)
        return reasons

    def metrics(self) -> bytes:
        """Metrics of this worker for Prometheus."""
        return self._app.telemetry.metrics()

    def export_gauges(self) -> None:
        """Add to the metrics what is read at the moment that they are asked for."""
        gauge, pool, publisher = self._app.telemetry.gauge, self._app.pool, self._app.publisher
        for name, key, meaning in (
            ("queued_documents", "documents", "Documents in the pool"),
            ("queued_tokens", "tokens", "Tokens that wait for a device"),
            ("batches_in_flight", "batches_in_flight", "Device batches under way"),
        ):
            gauge(f"bertstream_{name}", meaning, partial(_read, pool.state, key))
        gauge(
            "bertstream_awaiting_delivery",
            "Outcomes that the broker has not confirmed yet",
            lambda: publisher.awaiting_delivery,
        )
        gauge("bertstream_assigned_partitions", "Partitions read", lambda: len(self.assigned()))
        gauge("bertstream_ready", "Whether work can be taken", lambda: not self.readiness())

    def facts(self) -> dict[str, Any]:
        """What the other workers are told of this one, beside its counts."""
        assert self._app.registry is not None
        models = self._app.registry.describe()
        return {
            "group": self._app.settings.app_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "page": self._app.status_server.url,
            "partitions": self.assigned(),
            "devices": sorted({model["device"] for model in models}),
            "dtype": models[0]["dtype"],
        }

    def status(self) -> dict[str, Any]:
        """What the status page shows."""
        registry = self._app.registry
        return {
            "worker": self._worker(),
            "broker": self._broker(),
            "models": registry.describe() if registry is not None else [],
            **(self._work() if self.is_ready else NO_WORK),
        }

    def _worker(self) -> dict[str, Any]:
        settings, telemetry = self._app.settings, self._app.telemetry
        reasons = self.readiness()
        rebalancing = self.is_ready and self._app.rebalancing
        return {
            "name": telemetry.worker,
            "version": version("bertstream"),
            "pid": os.getpid(),
            "started_at": telemetry.started_at,
            "uptime_s": time.time() - telemetry.started_at,
            "state": "rebalancing" if rebalancing else self._app.phase,
            "ready": not reasons,
            "reasons": reasons,
            "group": settings.app_id,
            "delivery": settings.delivery,
            "python": platform.python_version(),
            "torch": version("torch"),
        }

    def _broker(self) -> dict[str, Any]:
        settings = self._app.settings
        return {
            "addresses": settings.bootstrap_servers,
            "connected": self.is_ready and self._app.group.seconds_since_answer < BROKER_SILENCE_S,
            "topics": {
                "requests": settings.request_topic,
                "responses": settings.response_topic,
                "dead_letters": settings.dead_letter_topic,
                "throughput": settings.throughput_topic,
            },
        }

    def _work(self) -> dict[str, Any]:
        group = self._app.group
        return {
            "throughput": group.throughput(),
            "errors": group.errors(),
            "labels": group.labels(),
            "dead_letters": group.dead_letters(),
            "partitions": group.partitions(),
            "workers": group.workers(),
            "queue": {
                **self._app.pool.state(),
                "awaiting_delivery": self._app.publisher.awaiting_delivery,
            },
        }


def _read(state: Callable[[], Mapping[str, int]], key: str) -> int:
    return state()[key]
