"""One broker a folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from app.errors import BrokerError

POLL_S = 0.02
LOOK_S = 0.2
"""More than `is_locked` holds a lock for, to see whether it can."""


class FolderLock:
    """The right to use a broker's folder, taken on entry, and kept by the processes that inherit
    its descriptor until the last of them has ended.

    Args:
        patience_s: how long a broker whose starter was killed may take to end.

    Raises:
        BrokerError: another broker has it.
    """

    def __init__(self, folder: Path, patience_s: float) -> None:
        self._folder = folder
        self._patience_s = patience_s
        self.descriptor = -1

    def __enter__(self) -> FolderLock:
        self.descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            self._take()
            self.name_holder()
        except BaseException:
            os.close(self.descriptor)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def name_holder(self, java: int = 0, address: str | None = None) -> None:
        """Tell whom this lock is refused who has it, and workers where to wait for it; process ids
        hold on one host only."""
        holder = {
            "host": socket.gethostname(),
            "starter": os.getpid(),
            "java": java,
            "address": address,
        }
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, json.dumps(holder).encode(), 0)

    def _take(self) -> None:
        began = time.monotonic()
        deadline = began + self._patience_s
        while not _try_lock(self.descriptor):
            if time.monotonic() < began + LOOK_S:
                time.sleep(POLL_S)
                continue
            holder = _holder(self.descriptor)
            abandoned = holder.get("host") == socket.gethostname() and not is_alive(
                int(holder.get("starter", 0))
            )
            # A broker whose starter was killed is about to end.
            if abandoned and time.monotonic() < deadline:
                time.sleep(POLL_S)
            elif abandoned:
                raise BrokerError(
                    f"a Kafka that was left behind uses {self._folder}: "
                    f"end it with 'kill {holder.get('java')}'"
                )
            else:
                raise BrokerError(f"a Kafka {self._where()} uses {self._folder}: stop it first")

    def _where(self) -> str:
        try:
            return f"that listens on {(self._folder / 'address').read_text()}"
        except OSError:
            return "that is starting or stopping"


def is_locked(folder: Path) -> bool:
    """Whether a broker uses the folder."""
    with (folder / "lock").open("rb") as file:
        return not _try_lock(file.fileno())


def address_of(folder: Path) -> str | None:
    """Where the broker of the folder answers, or will answer once it has started, as `host:port`;
    None where there is none."""
    try:
        return (folder / "address").read_text().strip()
    except OSError:
        pass
    try:
        if not is_locked(folder):
            return None
        with (folder / "lock").open("rb") as file:
            return _holder(file.fileno()).get("address")
    except OSError:
        return None


def _holder(descriptor: int) -> dict[str, Any]:
    try:
        holder: dict[str, Any] = json.loads(os.pread(descriptor, 4096, 0))
        return holder
    except ValueError:
        return {}


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_alive(pid: int) -> bool:
    """Whether a process has this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
