"""What this worker did: counted for Prometheus, and told to the other workers."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from aiokafka.errors import KafkaError
from faust.exceptions import ProducerSendError
from mode import Service
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client import Counter as PrometheusCounter

from app.diagnosis import reason_of
from app.latency import LatencyHistogram, buckets
from app.records import Outcome, Request, Throughput
from app.settings import Settings
from models.inference.tasks import Prediction

if TYPE_CHECKING:
    from models.inference.pool import BatchDone

LATENCY_BUCKETS_S = (
    *(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0),
)
LAST_REPORT_S = 2.0
"""Longest that a worker which stops waits for its last statistics to be written."""
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def new_name() -> str:
    """A name for this worker: containers may share a host name, and each has a process 1."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


class Telemetry:
    """Counts outcomes and device batches, by model."""

    def __init__(self, settings: Settings) -> None:
        self.worker = settings.worker_id or new_name()
        self.started_at = time.time()
        self.default_model = next(iter(settings.models))
        self.models: list[str] = list(settings.models)
        self._since = time.monotonic()
        self._counts: dict[str, _Counts] = {}
        self.registry = registry = CollectorRegistry()
        self._records = PrometheusCounter(
            "bertstream_records",
            "Records answered, by model and code (ok or the code of the error)",
            ["model", "code"],
            registry=registry,
        )
        self._tokens = PrometheusCounter(
            "bertstream_tokens", "Tokens of predicted documents", ["model"], registry=registry
        )
        self._labels = PrometheusCounter(
            "bertstream_labels", "Predictions by label", ["model", "label"], registry=registry
        )
        self._latency = LatencyHistogram(
            "bertstream_latency_seconds",
            "From the timestamp of a request to the confirmed delivery of its response",
            LATENCY_BUCKETS_S,
            registry,
        )
        self._batch_documents = Histogram(
            "bertstream_batch_documents",
            "Documents of a device batch, also those of which it holds a part",
            ["model"],
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self._batch_segments = Histogram(
            "bertstream_batch_segments",
            "Segments of a device batch",
            ["model"],
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self._batch_seconds = Histogram(
            "bertstream_batch_seconds",
            "Time of a device batch",
            ["model"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )

    def gauge(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """Export a value that is read whenever the metrics are asked for."""
        Gauge(name, meaning, registry=self.registry).set_function(read)

    def metrics(self) -> bytes:
        """Everything counted since the start, in the text format of Prometheus."""
        return generate_latest(self.registry)

    def delivered(self, outcomes: Iterable[Outcome]) -> None:
        """Count outcomes that the broker has confirmed."""
        now = time.time()
        by_model: defaultdict[str, list[Outcome]] = defaultdict(list)
        for outcome in outcomes:
            by_model[self._model_of(outcome)].append(outcome)
        for model, those in by_model.items():
            self._count(model, those, now)

    def _count(self, model: str, outcomes: Sequence[Outcome], now: float) -> None:
        """Count outcomes of one model, confirmed `now`, in Unix seconds."""
        predictions = [one.answer for one in outcomes if isinstance(one.answer, Prediction)]
        errors = Counter(one.error.code for one in outcomes if one.error is not None)
        tokens = sum(one.tokens for one in predictions)
        labels = Counter(one.label for one in predictions if one.label is not None)
        labels.update(label for one in predictions for label in one.labels or ())
        latencies_s = [max(0.0, now - one.job.timestamp) for one in outcomes]
        counts = self._counts_of(model)
        counts.records += len(outcomes)
        counts.documents += len(predictions)
        counts.tokens += tokens
        counts.errors.update(errors)
        counts.labels.update(labels)
        counts.latency_ms.update(buckets([1000 * one for one in latencies_s]))
        self._latency.observe(model, latencies_s)
        codes = {"ok": len(predictions)} if predictions else {}
        for code, count in (codes | errors).items():
            self._records.labels(model, code).inc(count)
        if predictions:
            self._tokens.labels(model).inc(tokens)
        for label, count in labels.items():
            self._labels.labels(model, label).inc(count)

    def batch_done(self, batch: BatchDone) -> None:
        """Count a device batch."""
        counts = self._counts_of(batch.model)
        counts.batches += 1
        counts.batched_documents += batch.documents
        counts.batched_segments += batch.segments
        self._batch_documents.labels(batch.model).observe(batch.documents)
        self._batch_segments.labels(batch.model).observe(batch.segments)
        self._batch_seconds.labels(batch.model).observe(batch.seconds)

    def take(self, facts: dict[str, Any]) -> list[Throughput]:
        """What was done since the last call: a record a model, also for one that was idle."""
        now = time.monotonic()
        seconds, self._since = now - self._since, now
        counts_by_model, self._counts = self._counts, {}
        return [
            Throughput(
                model=model,
                worker=self.worker,
                started_at=self.started_at,
                time=time.time(),
                seconds=seconds,
                **facts,
                **(counts_by_model.get(model) or _Counts()).to_dict(),
            )
            for model in self.models
        ]

    def _model_of(self, outcome: Outcome) -> str:
        """The model that answered, or was to; the default where that is none of ours, or not
        known."""
        if isinstance(outcome.answer, Prediction):
            return outcome.answer.model
        request = outcome.job.request
        asked = request.model if isinstance(request, Request) else None
        return asked if asked in self.models else self.default_model

    def _counts_of(self, model: str) -> _Counts:
        counts = self._counts.get(model)
        if counts is None:
            counts = self._counts[model] = _Counts()
        return counts


class _Counts:
    def __init__(self) -> None:
        self.records = self.documents = self.tokens = 0
        self.batches = self.batched_documents = self.batched_segments = 0
        self.errors: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()
        self.latency_ms: Counter[str] = Counter()

    def to_dict(self) -> dict[str, Any]:
        return {
            name: dict(value) if isinstance(value, Counter) else value
            for name, value in vars(self).items()
        }


class Send(Protocol):
    """Sends one throughput record under its key; what it returns comes when that is written."""

    async def __call__(self, *, key: bytes, value: Throughput) -> Awaitable[Any]: ...


class ThroughputReporter(Service):  # type: ignore[misc]
    """Sends one record per model and interval to the throughput topic.

    What could not be written goes with the next interval.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        send: Send,
        facts: Callable[[], dict[str, Any]],
        interval_s: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.telemetry = telemetry
        self.send = send
        self.facts = facts
        self.interval_s = interval_s
        self._unwritten: dict[str, Throughput] = {}
        self._failing = False

    async def on_stop(self) -> None:
        """Tell what the last interval brought, where that does not take long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_REPORT_S):
                await self._report()

    @Service.task  # type: ignore[untyped-decorator]
    async def _run(self) -> None:
        # Not `itertimer`, which complains where a report takes long.
        while not self.should_stop:
            await self.sleep(self.interval_s)
            await self._report()

    async def _report(self) -> None:
        records = self.telemetry.take(self.facts())
        reasons = list(filter(None, await asyncio.gather(*map(self._write, records))))
        if reasons and not self._failing:
            self.log.warning("statistics are not written, and tried again: %s", reasons[0])
        elif self._failing and not reasons:
            self.log.info("statistics are written again")
        self._failing = bool(reasons)

    async def _write(self, record: Throughput) -> str | None:
        """Write a record, with what was not written before it; else keep it, and say why."""
        if (before := self._unwritten.pop(record.key, None)) is not None:
            record = before.plus(record)
        try:
            # Faust looks at the same future, and expects that nobody cancels it.
            await asyncio.shield(await self.send(key=record.key.encode(), value=record))
            return None
        except (ProducerSendError, KafkaError) as error:
            self._unwritten[record.key] = record
            return reason_of(error)
