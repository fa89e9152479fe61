"""Real workers, as processes, for the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from app.settings import PREFIX, Settings, load_settings

PATIENCE = 3.0
"""How many times as long as a deadline says is waited: one fits a machine that nobody else uses."""
READY_WITHIN_S = 90.0
STOP_WITHIN_S = 40.0


def eventually(condition: Callable[[], Any], within_s: float = 30.0, what: str = "") -> Any:
    """The first true value of `condition`, asked again and again until the deadline.

    Raises:
        AssertionError: it was not true within `within_s` seconds, and as many more as `PATIENCE`
            allows.
    """
    deadline = time.monotonic() + PATIENCE * within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within_s} s: {what or condition}"
        time.sleep(0.05)
    return value


def environment(settings: Settings) -> dict[str, str]:
    """The environment in which a process reads these settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    explicit = settings.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    for name in explicit:
        if isinstance(secret := getattr(settings, name), SecretStr):
            explicit[name] = secret.get_secret_value()
    return inherited | {f"{PREFIX}{name.upper()}": str(value) for name, value in explicit.items()}


def left_behind(folder: Path) -> list[str]:
    """Processes that were started with this `DATA_DIR`, those of Kafka included."""
    mark = f"BERTSTREAM_DATA_DIR={folder}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has ended, or is another user's
            continue
    return found


def service_settings(bootstrap_servers: str, names: str, folder: Path, **more: Any) -> Settings:
    """Settings of a service with topics, a group and a folder of its own."""
    return load_settings(
        **{
            "broker_url": f"kafka://{bootstrap_servers}",
            "app_id": names,
            "request_topic": f"{names}-requests",
            "response_topic": f"{names}-responses",
            "dead_letter_topic": f"{names}-dead-letters",
            "throughput_topic": f"{names}-throughput",
            "reply_topics": f"{names}-replies.*",
            "partitions": 4,
            "data_dir": folder,
            "web_port": 0,
            **more,
        }
    )


@dataclass
class StartedWorker:
    """A worker, started as a user starts one."""

    settings: Settings
    log_file: Path
    command: list[str] = field(
        default_factory=lambda: [sys.executable, "-m", "faust", "-A", "app", "worker", "-l", "info"]
    )
    variables: Mapping[str, str] = field(default_factory=dict)
    """What its environment holds besides the settings."""
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env={**environment(self.settings), **self.variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def url(self) -> str | None:
        """Where the page is, once the worker has said so."""
        file = self.settings.data_dir / "workers" / f"{self.process.pid}.json"
        try:
            url: str = json.loads(file.read_text())["web"]
        except (OSError, ValueError):
            return None
        return url

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of a page of the worker; status 0 where it does not answer."""
        if self.url is None:
            return 0, None
        try:
            with self._open(path) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:
            return 0, None

    def text(self, path: str) -> str:
        """What the worker serves at a path, with the token where it asks for one."""
        with self._open(path) as response:
            text: str = response.read().decode()
        return text

    def _open(self, path: str) -> Any:
        request = urllib.request.Request(f"{self.url}{path}")
        if self.settings.web_token is not None:
            token = self.settings.web_token.get_secret_value()
            request.add_header("Authorization", f"Bearer {token}")
        return urllib.request.urlopen(request, timeout=5)

    def wait_until_ready(self, within_s: float = READY_WITHIN_S) -> None:
        """Return when `/readyz` says so."""

        def ready() -> bool:
            assert self.process.poll() is None, "the worker ended"
            return self.url is not None and self.get("/readyz")[0] == 200

        try:
            eventually(ready, within_s)
        except AssertionError as error:
            log = self.log[-8000:]
            raise AssertionError(f"{error}: {self.get('/readyz')}\n{log}") from None

    def stop(self, within_s: float = STOP_WITHIN_S) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def kill(self) -> None:
        """SIGKILL, where it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
