"""Runs a command for no longer than the process that started it lives.

`python lifeline.py PARENT GRACE_S ADDRESS_FILE COMMAND...` starts the command, prints its process
id, and ends it when the process `PARENT` ends, closes this one's standard input, or sends a
signal: first with SIGTERM, then, after `GRACE_S` seconds, with SIGKILL. Last it removes
`ADDRESS_FILE`, and exits as the command did.

It is a process of its own because only such a one outlives a parent that was killed, on every
system alike, and it imports nothing of bertstream because it should be small and there at once.
"""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

POLL_S = 0.2


def main(parent: int, grace_s: float, address_file: Path, command: list[str]) -> int:
    stopping = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, stop)
    # Descriptors meant for the command are inherited through this process, above all the one that
    # holds the lock: it is free when the command has ended, whatever became of the rest.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, close_fds=False)
    try:
        print(child.pid, flush=True)
        while child.poll() is None and not stopping and os.getppid() == parent:
            # A fork of the parent may hold the other end open, hence the look at the parent's id.
            stopping = bool(select.select([sys.stdin], [], [], POLL_S)[0])
    finally:
        child.terminate()
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        address_file.unlink(missing_ok=True)
    return child.returncode


if __name__ == "__main__":
    sys.exit(abs(main(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])))
