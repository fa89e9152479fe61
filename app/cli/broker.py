"""`bertstream broker`: a one-node Kafka of one's own, in the foreground."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from app.broker import EmbeddedBroker
from app.cli.console import err, out
from app.errors import BrokerError, SettingsError
from app.folder_lock import is_alive
from app.kafka_jars import KAFKA_VERSION
from app.settings import Settings, load_settings

POLL_S = 0.05
WORKERS_PATIENCE_S = 4.0
"""How long Kafka outlasts a signal for its workers; honcho kills what has not ended within 5 s."""


def broker(
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port to listen on; when it is taken, a free one. 0: any. "
            "Default: the last one, at first 9092.",
        ),
    ] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Remove its topics, offsets and logs first.")
    ] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Instead of BERTSTREAM_DATA_DIR.", show_default=False)
    ] = None,
) -> None:
    """Run a one-node Apache Kafka on this machine until Ctrl-C or SIGTERM.

    Workers on the same folder are given some seconds then to finish, if they run.
    """
    settings = load_settings(**({} if data_dir is None else {"data_dir": data_dir}))
    if settings.broker_url is not None:
        raise SettingsError(
            f"no broker is started because BERTSTREAM_BROKER_URL is set ({settings.broker_url}): "
            "unset it to run one here"
        )
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _exit)
    kafka = EmbeddedBroker(
        settings.embedded_address_file.parent,
        progress=lambda line: err.print(line, markup=False, soft_wrap=True),
    )
    if reset:
        kafka.reset()
    kafka.start(port)
    with kafka:
        out.print(
            f"Kafka {KAFKA_VERSION} listens on {kafka.address} (log: {kafka.log_file})",
            markup=False,
            soft_wrap=True,
        )
        try:
            kafka.wait()
        except SystemExit:
            _outlast_workers(settings, kafka)
            raise
        raise BrokerError(f"Kafka ended by itself: {kafka.why_it_ended()}")


def _outlast_workers(settings: Settings, kafka: EmbeddedBroker) -> None:
    """Stay while workers of the same folder, which a Procfile stops together with Kafka, finish and
    commit; a second signal ends this."""
    workers = [int(file.stem) for file in (settings.data_dir / "workers").glob("*.json")]
    deadline = time.monotonic() + WORKERS_PATIENCE_S
    while kafka.running and any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _exit(signum: int, frame: object) -> None:
    """Leave through every `finally`; an end that was asked for is a success."""
    raise SystemExit(0)
