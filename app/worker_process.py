"""A worker in a process of its own, which ends when this one does, however this one ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request

import orjson

from app.errors import BertstreamError, SettingsError
from app.settings import PREFIX, Settings

STOP_MARGIN_S = 10.0
UNREADY_PATIENCE_S = 2.0
"""How long a worker that has not taken anything yet may go on loading before it is killed."""
TAIL_BYTES = 4096
PROBE_TIMEOUT_S = 2.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""The worker is on this machine: a proxy that the environment names must not be asked."""


class WorkerProcess:
    """`bertstream worker` with these settings; what it logs goes to a file.

    Args:
        broker: bootstrap server, where it is not the one that the settings name.
    """

    def __init__(self, settings: Settings, broker: str | None = None) -> None:
        self._settings = settings
        self.log_file = settings.data_dir / "logs" / "worker.log"
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        self._was_ready = False
        environment = dict(os.environ)
        if broker is not None:
            environment[f"{PREFIX}BROKER_URL"] = f"kafka://{broker}"
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                # -P: an `app` in the working directory is not ours
                [sys.executable, "-P", "-m", "app.cli", "worker", "--exit-with-parent"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: the worker drains before Kafka stops
            )
        self._announcement = settings.data_dir / "workers" / f"{self._process.pid}.json"

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process.poll() is None

    @property
    def page(self) -> str | None:
        """Address of its status page, once its web server listens."""
        try:
            return str(orjson.loads(self._announcement.read_bytes())["web"])
        except (OSError, ValueError):
            return None

    def check(self) -> None:
        """Raise a BertstreamError, which says what its log says, when it has ended."""
        if not self.running:
            kind = SettingsError if self._process.returncode == 2 else BertstreamError
            raise kind(f"the worker ended: {self.why_it_ended()}")

    def reasons(self) -> list[str]:
        """Why it cannot take work yet; empty once it can.

        Raises:
            BertstreamError: it has ended; says what its log says.
        """
        self.check()
        page = self.page
        if page is None:
            return ["starting"]
        try:
            with _DIRECT.open(f"{page}/readyz", timeout=PROBE_TIMEOUT_S):
                self._was_ready = True
                return []
        except urllib.error.HTTPError as answer:
            return list(orjson.loads(answer.read())["reasons"])
        except OSError:
            return ["starting"]

    def last_words(self) -> str:
        """What it logged last, without the time."""
        with self.log_file.open("rb") as log:
            log.seek(max(0, self.log_file.stat().st_size - TAIL_BYTES))
            lines = log.read().decode(errors="replace").split("\n")
        return next((_message(line) for line in reversed(lines) if line.strip()), "")

    def why_it_ended(self) -> str:
        """The line of its log that most likely says so."""
        lines = self.log_file.read_text(errors="replace").splitlines()
        for pattern in (r"^bertstream: ", r"\[CRITICAL\]", r"^\w*(Error|Exception)\b", r"\S"):
            found = [line for line in lines if re.search(pattern, line)]
            if found:
                return f"{_message(found[-1])} (log: {self.log_file})"
        return f"it said nothing (log: {self.log_file})"

    def stop(self) -> None:
        """Let it finish and commit what it has taken; a second Ctrl-C ends it at once."""
        assert self._process.stdin is not None
        patience_s = self._settings.drain_timeout_s + STOP_MARGIN_S
        try:
            self._process.terminate()
            self._process.wait(patience_s if self._was_ready else UNREADY_PATIENCE_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self._process.kill()
            self._process.wait()
        finally:
            self._process.stdin.close()
            self._announcement.unlink(missing_ok=True)


def _message(line: str) -> str:
    """A log line without the time, process and level before it."""
    return re.sub(r"^bertstream: |^(\[[^]]*\]:? )+", "", line).strip()
