"""A lane whose device computes behind the forward pass, as CUDA does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from models.errors import InferenceFailed
from models.inference.buffer import Buffer
from models.inference.lane import BatchDone, Lane
from models.inference.tasks import Document, EncodedDocument, Segment
from models.inference.threads import Threads
from models.inference.ticket import Answer, Ticket
from models.inference.watch import Watch

DEADLINE_S = 30.0


class Deferred:
    """What a device will have computed once it is told to finish."""

    is_cuda = False

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.finished = threading.Event()
        self.error: Exception | None = None

    def fail(self) -> None:
        self.error = RuntimeError("launch failure")
        self.finished.set()

    def cpu(self) -> Tensor:
        assert self.finished.wait(DEADLINE_S)
        if self.error is not None:
            raise self.error
        return self.rows


class Device:
    """A model on a device that returns before it has computed."""

    name = "deferred"
    padding_free = False

    def __init__(self) -> None:
        self.launched: list[Deferred] = []

    def encode(self, documents: Sequence[Document]) -> list[EncodedDocument]:
        raise NotImplementedError

    def forward(self, segments: Sequence[Segment], device: torch.device) -> Tensor:
        self.launched.append(Deferred(torch.ones(len(segments), 1)))
        return cast(Tensor, self.launched[-1])

    def decode(self, encoded: EncodedDocument, rows: Tensor, inference_ms: float) -> Any:
        return float(rows.sum())


def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.001)


class Bench:
    """A lane with its two threads, and what comes out of it."""

    def __init__(
        self, *, batch_wait_s: float, max_in_flight: int = 3, limit_s: float = DEADLINE_S
    ) -> None:
        self.device = Device()
        self.buffer = Buffer()
        self.watch = Watch(limit_s)
        self.bugs: list[BaseException] = []
        self.threads = Threads(self.bugs.append)
        self.answers: list[Answer] = []
        self.done: list[BatchDone] = []
        self.lane = Lane(
            torch.device("cuda:0"),
            self.buffer,
            batch_size=4,
            batch_tokens=1000,
            batch_wait_s=batch_wait_s,
            max_in_flight=max_in_flight,
            threads=None,
            watch=self.watch,
            answer=self.take,
        )

    def take(self, answers: Sequence[Answer], done: BatchDone | None) -> None:
        self.answers += answers
        if done is not None:
            self.done.append(done)

    def put(self, documents: int, *, segments: int = 1) -> None:
        with self.buffer.changed:
            for _ in range(documents):
                document = Document("text")
                ticket = Ticket(cast(Any, None), None, 4, document, self.device)
                rows = tuple(Segment([1], None, 1) for _ in range(segments))
                self.buffer.put(ticket, EncodedDocument(document, rows, segments))
            self.buffer.changed.notify_all()

    @contextmanager
    def running(self) -> Iterator[None]:
        self.threads.start("compute", self.lane.compute)
        self.threads.start("decode", self.lane.decode)
        yield
        self.lane.close()
        assert self.threads.join(DEADLINE_S) == []
        assert not self.bugs

    def give_up(self, tickets: list[Ticket]) -> list[Ticket]:
        """Give up what is overdue, as the pool does, and add the documents that it was."""
        for step in self.watch.overdue():
            tickets += step.give_up()
            self.threads.replace(step.thread)
        return tickets


def test_full_batches_go_behind_the_one_that_computes_up_to_the_limit() -> None:
    bench = Bench(batch_wait_s=3600)
    with bench.running():
        bench.put(1)
        until(lambda: len(bench.device.launched) == 1)
        bench.put(16)
        until(lambda: len(bench.device.launched) == 3)
        assert bench.lane.in_flight == 3
        assert bench.buffer.tokens == 8
        for number in range(5):
            until(lambda number=number: len(bench.device.launched) > number)
            bench.device.launched[number].finished.set()
        until(lambda: len(bench.answers) == 17)
    assert [batch.segments for batch in bench.done] == [1, 4, 4, 4, 4]
    assert bench.lane.in_flight == 0


def test_a_batch_tells_of_documents_and_segments_also_where_it_completes_none() -> None:
    bench = Bench(batch_wait_s=0.0, max_in_flight=1)
    with bench.running():
        bench.put(1, segments=10)
        for number in range(3):
            until(lambda number=number: len(bench.device.launched) > number)
            if number == 1:
                bench.put(1)
            bench.device.launched[number].finished.set()
        until(lambda: len(bench.answers) == 2)
    assert [(batch.documents, batch.segments) for batch in bench.done] == [(1, 4), (1, 4), (2, 3)]


def test_a_batch_that_is_not_full_waits_for_the_device() -> None:
    bench = Bench(batch_wait_s=3600)
    with bench.running():
        bench.put(1)
        until(lambda: len(bench.device.launched) == 1)
        bench.put(3)
        bench.device.launched[0].finished.set()
        until(lambda: len(bench.device.launched) == 2)
        bench.device.launched[1].finished.set()
        until(lambda: len(bench.answers) == 4)
    assert [batch.segments for batch in bench.done] == [1, 3]


def test_a_batch_that_is_not_full_waits_no_longer_than_the_setting() -> None:
    bench = Bench(batch_wait_s=0.02)
    with bench.running():
        bench.put(1)
        until(lambda: len(bench.device.launched) == 1)
        bench.put(1)
        began = time.monotonic()
        until(lambda: len(bench.device.launched) == 2)
        assert time.monotonic() - began >= 0.015
        for launched in bench.device.launched:
            launched.finished.set()
        until(lambda: len(bench.answers) == 2)


@pytest.mark.parametrize("failures", [1, 2])
def test_a_failure_that_shows_when_the_device_has_computed(failures: int) -> None:
    bench = Bench(batch_wait_s=0.0, max_in_flight=1)
    with bench.running():
        bench.put(1)
        for number in range(failures):
            until(lambda number=number: len(bench.device.launched) > number)
            bench.device.launched[number].fail()
        if failures == 1:
            until(lambda: len(bench.device.launched) == 2)
            bench.device.launched[1].finished.set()
        until(lambda: len(bench.answers) == 1)
        ((_, outcome),) = bench.answers
        if failures == 1:
            assert outcome == 1.0
        else:
            assert isinstance(outcome, InferenceFailed)
        until(lambda: bench.lane.in_flight == 0)


def test_a_document_that_fails_in_two_batches_at_once_is_answered_once() -> None:
    bench = Bench(batch_wait_s=0.0)
    with bench.running():
        bench.put(1, segments=2)
        until(lambda: len(bench.device.launched) == 1)
        bench.device.launched[0].fail()
        until(lambda: len(bench.device.launched) == 3)
        for half in bench.device.launched[1:]:
            half.fail()
        until(lambda: bench.lane.in_flight == 0)
    ((_, outcome),) = bench.answers
    assert isinstance(outcome, InferenceFailed)


@pytest.mark.parametrize("late_error", [False, True])
def test_batches_behind_one_that_hangs_are_answered(late_error: bool) -> None:
    bench = Bench(batch_wait_s=0.0, limit_s=0.4)
    given_up: list[Ticket] = []
    with bench.running():
        for number in range(3):
            bench.put(1)
            until(lambda number=number: len(bench.device.launched) > number)
        hanging, *others = bench.device.launched
        until(lambda: bool(bench.give_up(given_up)))
        assert bench.lane.in_flight == 2
        for other in others:
            other.finished.set()
        until(lambda: len(bench.answers) == 2)
        bench.put(1)
        until(lambda: len(bench.device.launched) == 4)

        if late_error:
            hanging.fail()
        hanging.finished.set()
        until(lambda: not bench.threads.hanging())
        assert bench.lane.in_flight == 1
        bench.device.launched[3].finished.set()
        until(lambda: len(bench.answers) == 3)
    assert len(bench.done) == 3
    assert len(given_up) == 1
    assert not set(given_up) & {ticket for ticket, _ in bench.answers}
