"""`bertstream up`: everything on this machine, with documents to see it work."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from app.broker import EmbeddedBroker
from app.cli.console import out, print_line, run
from app.cli.documents import SAMPLES, read_files
from app.cli.outcomes import Summary, line
from app.errors import BertstreamError, BrokerError
from app.printable import beginning
from app.settings import PREFIX, Settings, load_settings
from app.worker_process import WorkerProcess

POLL_S = 0.1


def up(
    docs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Documents as .txt (one a line), .csv, .tsv or .jsonl, instead of the samples.",
        ),
    ] = None,
    once: Annotated[
        bool,
        typer.Option("--once", help="Stop after the documents; exit code 0 if all were predicted."),
    ] = False,
) -> None:
    """Start Kafka, a worker and its status page, and stream documents through them.

    Kafka is not started where BERTSTREAM_BROKER_URL names one. Ctrl-C stops everything.
    """
    settings = load_settings()
    documents = list(read_files([docs or SAMPLES]))
    # A shell starts background jobs with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda *_: signal.raise_signal(signal.SIGINT))
    shown = False
    try:
        with _only_one(settings), Stack(settings) as stack:
            stack.start()
            summary = run(_stream(settings, stack, documents))
            _conclude(summary, stack)
            shown = True
            if once:
                raise typer.Exit(1 if summary.errors else 0)
            out.print("Ctrl-C stops everything.", style="dim")
            while True:
                stack.check()
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        raise typer.Exit(0 if shown and not once else 130) from None


class Stack:
    """The broker, where it is ours, and the worker, in the order that both need."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._began = time.monotonic()
        self._cleanup = ExitStack()
        self._worker: WorkerProcess | None = None
        self._broker: EmbeddedBroker | None = None

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *_: object) -> None:
        with out.status("stopping"):
            self._cleanup.close()

    @property
    def worker(self) -> WorkerProcess:
        """The worker, once it was started."""
        assert self._worker is not None
        return self._worker

    def start(self) -> None:
        """Start everything and wait until the worker can take work.

        Raises:
            BertstreamError: the broker or the worker cannot be started; says why.
        """
        with out.status("starting Kafka") as status:
            if self._settings.broker_url is None:
                self._start_broker()
            else:
                run(_reach(self._settings))
                self._say(f"Kafka    {', '.join(self._settings.bootstrap_servers)}")
                self._start_worker(None)
            while reasons := self.worker.reasons():
                self.check()
                doing = self.worker.last_words() or reasons[0]
                status.update(Text(f"worker: {beginning(doing)}"))
                time.sleep(POLL_S)
        self._say(f"worker   ready, log {self.worker.log_file}")

    def check(self) -> None:
        """Raise a BertstreamError when something has ended that should run."""
        if self._broker is not None and not self._broker.running:
            raise BrokerError(f"Kafka ended: {self._broker.why_it_ended()}")
        self.worker.check()

    def _start_broker(self) -> None:
        """Start Kafka, and the worker once Kafka's port is known: its models load meanwhile."""
        folder = self._settings.embedded_address_file.parent
        self._broker = broker = EmbeddedBroker(folder, progress=self._say)
        self._cleanup.callback(broker.stop)
        answers = threading.Event()
        address = ""

        def launch() -> None:
            nonlocal address
            while not broker.port and not answers.wait(POLL_S):
                pass
            if broker.port:
                address = broker.address
                self._start_worker(address)

        launcher = threading.Thread(target=launch, name="launch")
        launcher.start()
        try:
            broker.start()
        finally:
            answers.set()
            launcher.join()
        self._say(f"Kafka    {broker.address}, log {broker.log_file}")
        if broker.address != address:  # the port was lost to somebody at the last moment
            self.worker.stop()
            self._start_worker(broker.address)

    def _start_worker(self, broker: str | None) -> None:
        self._worker = WorkerProcess(self._settings, broker)
        self._cleanup.callback(self._worker.stop)

    def _say(self, message: str) -> None:
        elapsed = time.monotonic() - self._began
        out.print(f"{elapsed:5.1f} s  {message}", markup=False, soft_wrap=True)


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    """Hold the right to run on this `DATA_DIR`; the system takes it back however we end.

    Raises:
        BertstreamError: another one runs there.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with (settings.data_dir / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise BertstreamError(
                f"bertstream up runs already on {settings.data_dir} (process {lock.read()}): stop "
                f"it, or give this one another {PREFIX}DATA_DIR"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


async def _reach(settings: Settings) -> None:
    """Make sure that the user's own broker answers before anything waits for it."""
    from aiokafka.admin import AIOKafkaAdminClient

    from app.kafka import client_options, connect

    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await connect(admin, settings)
    finally:
        await admin.close()


async def _stream(
    settings: Settings, stack: Stack, documents: Sequence[Mapping[str, Any]]
) -> Summary:
    """Send the documents and print each prediction as it arrives, as long as everything lives."""

    async def watch() -> None:
        while True:
            stack.check()
            await asyncio.sleep(POLL_S)

    exchanging = asyncio.create_task(_exchange(settings, documents))
    watching = asyncio.create_task(watch())
    try:
        await asyncio.wait({exchanging, watching}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            watching.result()
        return await exchanging
    finally:
        exchanging.cancel()
        watching.cancel()


async def _exchange(settings: Settings, documents: Sequence[Mapping[str, Any]]) -> Summary:
    from app.client import Client

    async with Client(settings) as client:
        summary = Summary()
        async with aclosing(client.exchange(documents)) as answers:
            async for document, response in answers:
                assert isinstance(document, Mapping)
                summary.add(document, response)
                print_line(line(response, document))
        return summary


def _conclude(summary: Summary, stack: Stack) -> None:
    answered = summary.answered
    verdict = (
        f"{summary.as_expected} of {summary.labelled} as expected"
        if summary.labelled
        else f"{answered} of {answered} answered"
    )
    failed = f", {summary.errors.total()} with an error" if summary.errors else ""
    out.print(f"\n{verdict}{failed}, in {summary.seconds:.1f} s", style="bold")
    out.print(f"status page: {stack.worker.page}", soft_wrap=True)
