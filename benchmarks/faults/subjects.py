"""Whom the faults are put on: bertstream, and what others would write for the same work."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.settings import Settings
from tests.workers import READY_WITHIN_S, StartedWorker, eventually


@dataclass(frozen=True)
class Subject:
    """Something that answers requests, started as a process and driven from outside.

    All of them read the settings of bertstream for topics, group and broker.
    """

    name: str
    title: str
    """As the table calls it."""
    command: tuple[str, ...] | None = None
    """How a process of it is started; None: as a worker of bertstream."""
    ready_line: str | None = None
    """What a process logs when it has begun to take requests; None: `/readyz` tells."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What is set differently."""
    variables: dict[str, str] = field(default_factory=dict)
    """What its environment holds besides the settings."""
    failing: dict[str, Any] | None = None
    """What is different in one whose agent raises twice; None: it has no agent."""
    isolation_level: str = "read_uncommitted"
    """What its readers read."""
    carries_source: bool = True
    """Whether its answers carry the source and the key of their request."""

    @property
    def has_probes(self) -> bool:
        """Whether its processes say over HTTP how they are."""
        return self.ready_line is None

    def start(self, settings: Settings, log_file: Path) -> Process:
        """Start a process; it is not ready yet."""
        if self.command is None:
            return Process(settings, log_file, variables=self.variables)
        return Process(
            settings,
            log_file,
            [sys.executable, *self.command],
            variables=self.variables,
            ready_line=self.ready_line,
        )


@dataclass
class Process(StartedWorker):
    """A process of a subject."""

    ready_line: str | None = None

    def wait_until_ready(self, within_s: float = READY_WITHIN_S) -> None:
        """Return when it takes requests."""
        line = self.ready_line
        if line is None:
            super().wait_until_ready(within_s)
        else:
            eventually(lambda: line in self.log, within_s, f"{line!r} in {self.log_file}")


OURS = Subject(
    "ours",
    "bertstream",
    failing={
        "command": ("-m", "tests.faults.failing_agent", "-A", "app", "worker", "-l", "info"),
    },
)
EXACTLY_ONCE = Subject(
    "exactly-once",
    "bertstream, exactly once",
    settings={"delivery": "exactly-once"},
    isolation_level="read_committed",
)
PLAIN_FAUST = Subject(
    "plain-faust",
    "a plain Faust agent",
    ("-m", "benchmarks.peers.plain_faust", "worker", "-l", "info", "--without-web"),
    "[^Worker]: Ready",
    failing={"variables": {"PEER_MODEL": "failing"}},
    carries_source=False,
)
HAND_WRITTEN = Subject(
    "hand-written",
    "a hand-written consumer",
    ("-m", "benchmarks.peers.hand_written"),
    "ready",
    carries_source=False,
)
CONFLUENT = Subject(
    "confluent",
    "a hand-written consumer on librdkafka",
    ("-m", "benchmarks.peers.confluent"),
    "ready",
    carries_source=False,
)
QUIX = Subject(
    "quix",
    "Quix Streams",
    ("-m", "benchmarks.peers.quix"),
    "is now processing incoming messages",
    carries_source=False,
)
SPARK = Subject(
    "spark",
    "Spark Structured Streaming",
    ("-m", "benchmarks.peers.spark"),
    "ready",
    carries_source=False,
)
SUBJECTS = {one.name: one for one in (OURS, EXACTLY_ONCE, PLAIN_FAUST, HAND_WRITTEN)}
