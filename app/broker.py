"""A real Apache Kafka on this machine: one KRaft node, its data in a folder, on 127.0.0.1 only.

::

    this process ── lifeline.py ── java kafka.Kafka

Everything is kept in one folder: `data/` (Kafka's storage), `logs/`, `tmp/`, the configuration as
written at each start, `jars` (a list, see `app.kafka_jars`), `port` (the last one), `address`
(`host:port`, there while the broker answers) and `lock` (held by the Java process). Only the jars
themselves are elsewhere: in the user's Maven cache, or else in `m2` beside the folder.
"""

from __future__ import annotations

import base64
import logging
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from app import lifeline
from app.errors import BrokerError
from app.folder_lock import FolderLock, is_locked
from app.kafka_config import HOST, JVM_OPTIONS, LOG4J2, server_properties
from app.kafka_jars import find_jars, java_command, java_environment

DEFAULT_PORT = 9092
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
"""How long Kafka may take to stop by itself before it is killed."""
START_ATTEMPTS = 3
POLL_S = 0.02
LOG_LINES = 300
"""How far from the end of Kafka's log the reason for its end is looked for."""

log = logging.getLogger(__name__)


class EmbeddedBroker:
    """Kafka in a process of its own, which ends when this one does, however this one ends.

    Starting and stopping wait: from an event loop, call them through `asyncio.to_thread`.

    Args:
        folder: where everything is kept, `settings.embedded_address_file.parent`.
        properties: server properties that go before ours, except that `listeners` and
            `advertised.listeners` are added to ours.
        progress: takes a line for the user where something takes long or is not as wished.
    """

    def __init__(
        self,
        folder: Path,
        *,
        properties: Mapping[str, str] | None = None,
        progress: Callable[[str], None] = log.info,
    ) -> None:
        self.folder = folder.resolve()
        self.port = 0
        self.pid = 0
        """Process id of the Java process."""
        self.log_file = self.folder / "logs" / "server.log"
        self._output_file = self.folder / "logs" / "java.log"
        self._address_file = self.folder / "address"
        self._data = self.folder / "data"
        self._properties = dict(properties or {})
        self._progress = progress
        self._lifeline: subprocess.Popen[str] | None = None
        self._log_start = 0

    @property
    def address(self) -> str:
        """The bootstrap server, `host:port`."""
        return f"{HOST}:{self.port}"

    @property
    def running(self) -> bool:
        return self._lifeline is not None and self._lifeline.poll() is None

    def start(self, port: int | None = None, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start Kafka and wait until it answers.

        Args:
            port: the wished port; another is taken, and said, where this one is not free. None:
                the one of the last start, or else 9092; 0: any.
            timeout_s: how long Kafka may take. Fetching its jars takes the time it takes.

        Raises:
            BrokerError: the jars cannot be had, the folder is in use, or Kafka does not start.
        """
        if self.running:
            raise BrokerError(f"this Kafka runs already, on {self.address}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FolderLock(self.folder, STOP_TIMEOUT_S + 5) as lock:
                self._address_file.unlink(missing_ok=True)
                wished = self._last_port() if port is None else port
                free = _free_port(wished)
                lock.name_holder(address=f"{HOST}:{free}")  # workers wait there, and nowhere else
                jars = find_jars(self.folder / "jars", self.folder.parent / "m2", self._progress)
                self._start_on_a_free_port(free, jars, lock, timeout_s)
                if wished not in (0, self.port):
                    self._progress(f"port {wished} is taken: Kafka listens on {self.address}")
                (self.folder / "port").write_text(str(self.port))
                _write_whole(self._address_file, self.address)
        except OSError as error:
            raise BrokerError(f"Kafka cannot use {self.folder}: {error}") from error

    def stop(self) -> None:
        """Stop Kafka, cleanly where it lets itself be stopped in time; it may have ended."""
        process, self._lifeline = self._lifeline, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S + 5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        if process.returncode < 0:  # it was killed, and could clean nothing up
            self._stop_orphan()
            self._address_file.unlink(missing_ok=True)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until Kafka has ended; tells whether it has."""
        if self._lifeline is not None:
            try:
                self._lifeline.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return False
        return True

    def reset(self) -> None:
        """Remove the data and the logs of a broker that does not run.

        Raises:
            BrokerError: it runs, or a file cannot be removed.
        """
        if not self.folder.is_dir():
            return
        try:
            with FolderLock(self.folder, STOP_TIMEOUT_S + 5):
                for name in ("data", "logs", "tmp"):
                    if (self.folder / name).exists():
                        shutil.rmtree(self.folder / name)
                (self.folder / "port").unlink(missing_ok=True)
        except OSError as error:
            raise BrokerError(f"{self.folder} cannot be emptied: {error}") from error

    def __enter__(self) -> EmbeddedBroker:
        if not self.running:
            self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def why_it_ended(self) -> str:
        """What is known about the end of this broker, in one line."""
        code = None if self._lifeline is None else self._lifeline.poll()
        if code in (signal.SIGKILL, -signal.SIGKILL):
            return f"it was killed, as happens where memory runs out (log: {self.log_file})"
        reason = _telling_line(self._log_lines()[-LOG_LINES:])
        return f"{reason or 'it said nothing'} (log: {self.log_file})"

    def _last_port(self) -> int:
        try:
            return int((self.folder / "port").read_text())
        except (OSError, ValueError):
            return DEFAULT_PORT

    def _start_on_a_free_port(
        self, wished: int, jars: list[Path], lock: FolderLock, timeout_s: float
    ) -> None:
        for attempt in range(1, START_ATTEMPTS + 1):
            self.port = _free_port(wished)
            self._prepare(jars)
            try:
                self._spawn(jars, lock)
                self._wait_until_it_answers(timeout_s)
                return
            except BaseException as error:
                self.stop()
                # Somebody else may have taken the port between our look and Kafka's own.
                lost_the_port = "Address already in use" in str(error)
                if not lost_the_port or attempt == START_ATTEMPTS:
                    raise

    def _prepare(self, jars: list[Path]) -> None:
        """Write the configuration, and format the storage if it is new."""
        if (self.folder / "tmp").exists():
            shutil.rmtree(self.folder / "tmp")
        for name in ("logs", "tmp"):
            (self.folder / name).mkdir(exist_ok=True)
        (self.folder / "log4j2.xml").write_text(LOG4J2, encoding="utf-8")
        properties = server_properties(self.port, _free_port(0), self._properties)
        (self.folder / "server.properties").write_text(properties, encoding="ascii")
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        if not (self._data / "meta.properties").exists():  # which formatting writes last
            self._format(jars)

    def _format(self, jars: list[Path]) -> None:
        command = java_command(
            jars,
            "kafka.tools.StorageTool",
            *("format", "--cluster-id", _new_cluster_id(), "--config", "server.properties"),
            options=JVM_OPTIONS,
        )
        formatted = subprocess.run(
            command,
            cwd=self.folder,
            env=java_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if formatted.returncode:
            lines = formatted.stdout.decode(errors="replace").splitlines()
            raise BrokerError(f"Kafka cannot use {self._data}: {_telling_line(lines)}")

    def _spawn(self, jars: list[Path], lock: FolderLock) -> None:
        guard = [sys.executable, "-I", "-S", lifeline.__file__]
        command = java_command(jars, "kafka.Kafka", "server.properties", options=JVM_OPTIONS)
        with self._output_file.open("wb") as output:
            self._lifeline = subprocess.Popen(
                [*guard, str(os.getpid()), str(STOP_TIMEOUT_S), str(self._address_file), *command],
                cwd=self.folder,
                env=java_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                pass_fds=[lock.descriptor],
                start_new_session=True,  # Ctrl-C is for us: we may need Kafka a while longer
            )
        assert self._lifeline.stdout is not None
        self.pid = int(self._lifeline.stdout.readline() or 0)
        lock.name_holder(java=self.pid, address=self.address)

    def _wait_until_it_answers(self, timeout_s: float) -> None:
        meta = (self._data / "meta.properties").read_text()
        cluster = re.search(r"^cluster\.id=(.*)$", meta, re.MULTILINE)
        expected = cluster.group(1).strip() if cluster else ""
        deadline = time.monotonic() + timeout_s
        while (found := _cluster_id(self.port)) != expected:
            if not self.running:
                raise BrokerError(f"Kafka did not start: {self.why_it_ended()}")
            if time.monotonic() > deadline:
                other = f"; another Kafka, {found}, answers there" if found else ""
                raise BrokerError(
                    f"Kafka did not answer on {self.address} within {timeout_s:.0f} s{other}: "
                    f"{self.why_it_ended()}"
                )
            time.sleep(POLL_S)

    def _stop_orphan(self) -> None:
        """End Java where the process between us was killed. Our lock tells that it is Java still,
        and no later process of the same id."""
        for signum, patience_s in ((signal.SIGTERM, STOP_TIMEOUT_S), (signal.SIGKILL, 5.0)):
            deadline = time.monotonic() + patience_s
            if not self.pid or not is_locked(self.folder):
                return
            os.kill(self.pid, signum)
            while is_locked(self.folder) and time.monotonic() < deadline:
                time.sleep(POLL_S)

    def _log_lines(self) -> list[str]:
        lines: list[str] = []
        for file, start in ((self._output_file, 0), (self.log_file, self._log_start)):
            try:
                content = file.read_bytes()
            except OSError:
                continue
            start = start if start <= len(content) else 0  # it was rotated meanwhile
            lines += content[start:].decode(errors="replace").splitlines()
        return lines


def _new_cluster_id() -> str:
    """22 characters of URL-safe base64; a first dash would make it an option of Kafka's tools."""
    while True:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not cluster.startswith("-"):
            return cluster


def _write_whole(file: Path, text: str) -> None:
    """Write a file that a reader sees whole or not at all."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def _free_port(wished: int) -> int:
    """The wished port if nothing listens there, else any free one."""
    with socket.socket() as probe:
        taken = wished != 0 and probe.connect_ex((HOST, wished)) == 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Kafka does
        try:
            probe.bind((HOST, 0 if taken else wished))
        except OSError:
            probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _cluster_id(port: int) -> str | None:
    """Ask for the cluster at a port by Kafka's own protocol; None where no broker of it answers.

    A Metadata request, version 2 with no topics, whose answer is correlation id, brokers
    (id, host, port, rack) and cluster id.
    """
    request = struct.pack(">hhihi", 3, 2, 0, -1, 0)
    try:
        with socket.create_connection((HOST, port), timeout=5) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            with connection.makefile("rb") as stream:
                (size,) = struct.unpack(">i", stream.read(4))
                answer = stream.read(size)
        _, brokers, _, host_length = struct.unpack_from(">iiih", answer)
        if brokers != 1:  # it is not registered yet
            return None
        at = 14 + host_length + 4
        (rack_length,) = struct.unpack_from(">h", answer, at)
        at += 2 + max(rack_length, 0)
        (length,) = struct.unpack_from(">h", answer, at)
        return answer[at + 2 : at + 2 + length].decode()
    except (OSError, ValueError, struct.error):
        return None


def _telling_line(lines: list[str]) -> str:
    """The line that most likely says what went wrong: the innermost cause, or else the last error,
    or else the last line."""
    for pattern in (r"^Caused by: ", r"\w(Exception|Error): ", r" (ERROR|FATAL) ", r"\S"):
        found = [line for line in lines if re.search(pattern, line)]
        if found:
            return found[-1].strip()
    return ""
