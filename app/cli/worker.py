"""`bertstream worker`: the Faust worker, without having to know Faust's flags."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Annotated, Literal

import typer

from app.settings import PREFIX, load_settings

STOP_MARGIN_S = 10.0


def worker(
    web_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help=f"Instead of {PREFIX}WEB_PORT.", show_default=False),
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="How much is logged.")
    ] = "info",
    exit_with_parent: Annotated[
        bool,
        typer.Option(
            "--exit-with-parent",
            help="Stop when standard input is closed: for a program that starts workers and may "
            "be killed itself.",
        ),
    ] = False,
) -> None:
    """Take requests, predict, and answer, until Ctrl-C or SIGTERM.

    The same as `faust -A app worker`. Start as many as you like, on any machines: they share the
    partitions of the request topic. A worker waits for its broker.
    """
    # Wrong settings are said before torch and Faust take their seconds to load.
    settings = load_settings(**({} if web_port is None else {"web_port": web_port}))
    if exit_with_parent:
        _exit_with_parent(settings.drain_timeout_s + STOP_MARGIN_S)
    if web_port is not None:
        os.environ[f"{PREFIX}WEB_PORT"] = str(web_port)
    from faust.cli.faust import cli

    sys.exit(
        cli.main(
            ["--app", "app", "worker", "--loglevel", log_level, "--without-web"],
            prog_name="bertstream worker",
        )
    )


def _exit_with_parent(patience_s: float) -> None:
    """Stop this process, for certain, when nobody holds the other end of standard input."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        # The parent's broker may have gone as well, so that offsets cannot be committed any more.
        time.sleep(patience_s)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
