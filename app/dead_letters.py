"""Dead letters: requests that ended in an error, as they lie on their topic.

Beside them lie marks, records without a value whose header `replayed` names the offsets, in the
same partition, of dead letters that have been sent back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from aiokafka.structs import ConsumerRecord

from app.errors import RequestError
from app.printable import beginning
from app.records import Source, inherited_id, json_object, own_id

DEAD_LETTER_HEADERS = frozenset(
    {
        *("error.code", "error.message", "error.value"),
        *("source.topic", "source.partition", "source.offset", "source.timestamp"),
    }
)
FORMS = {
    "error.code": r"(?s).+",
    "source.topic": r"(?s).+",
    "source.partition": "[0-9]{1,9}",
    "source.offset": "[0-9]{1,18}",
    "source.timestamp": "-?[0-9]{1,14}",
}
"""What a dead letter has to say, and how: anybody may write to its topic."""
REPLAY_COUNT = "replay.count"
"""Header of a replayed request: how often it has been."""
REPLAYED = "replayed"
"""Header of a mark: the offsets, such as `3-17,19`."""

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A request that ended in an error: its bytes, and what went wrong."""

    place: Source
    """Where the dead letter itself stands."""
    time: float
    """Unix seconds at which it became one."""
    code: str
    message: str
    source: Source
    """Where the request stood."""
    source_time: float
    """Unix seconds at which the request was produced."""
    key: bytes | None
    value: bytes | None
    headers: Headers
    """Those of the request."""
    omitted: bool
    """Whether the value, and perhaps key and headers, were too large to be kept."""

    @classmethod
    def of(cls, record: ConsumerRecord) -> DeadLetter | None:
        """Read a record of the topic; None where it is no dead letter."""
        headers = list(record.headers)
        facts: dict[str, str] = {}
        # Ours were added behind those of the request, which may have the same names.
        while headers:
            name, value = headers[-1]
            if name not in DEAD_LETTER_HEADERS or name in facts:
                break
            if name == "error.value" and facts:  # where it is ours, it is the last one
                break
            facts[name] = (value or b"").decode(errors="replace")
            headers.pop()
        if any(not re.fullmatch(form, facts.get(name, "")) for name, form in FORMS.items()):
            return None
        source = Source(
            facts["source.topic"], int(facts["source.partition"]), int(facts["source.offset"])
        )
        return cls(
            place=Source(record.topic, record.partition, record.offset),
            time=record.timestamp / 1000,
            code=facts["error.code"],
            message=facts.get("error.message", ""),
            source=source,
            source_time=int(facts["source.timestamp"]) / 1000,
            key=record.key,
            value=record.value,
            headers=tuple(headers),
            omitted="error.value" in facts,
        )

    @property
    def replays(self) -> int:
        """How often the request had been replayed when it ended here."""
        said = next((value for name, value in self.headers if name == REPLAY_COUNT), None)
        return int(said) if said and re.fullmatch(rb"[0-9]{1,9}", said) else 0

    @property
    def own_id(self) -> str | None:
        """The id that the request itself brings along, if any."""
        try:
            declared = json_object(self.value).get("id")
        except RequestError:
            declared = None
        return own_id(declared, self.key)

    @property
    def request_id(self) -> str:
        """The id under which the request was answered."""
        return self.own_id or inherited_id(self.headers) or str(self.source)

    def describe(self, length: int) -> dict[str, object]:
        """What a list of dead letters tells of this one, with so many characters of its value."""
        return {
            "time": self.time,
            "code": self.code,
            "message": self.message,
            "id": self.request_id,
            "place": self.place.to_dict(),
            "source": self.source.to_dict(),
            "replays": self.replays,
            "replayed_at": None,
            "value_bytes": None if self.value is None else len(self.value),
            "omitted": self.omitted,
            "text": beginning(self.value or b"", length),
        }


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters are meant; nothing set means all."""

    codes: frozenset[str] = frozenset()
    partitions: frozenset[int] = frozenset()
    """Of the request topic."""
    since: float | None = None
    """Unix seconds: not those that became dead letters before."""
    until: float | None = None

    def admits(self, letter: DeadLetter) -> bool:
        """Whether the dead letter is one of those that are meant."""
        return (
            (not self.codes or letter.code in self.codes)
            and (not self.partitions or letter.source.partition in self.partitions)
            and (self.since is None or letter.time >= self.since)
            and (self.until is None or letter.time < self.until)
        )


@dataclass(frozen=True, slots=True)
class Mark:
    """Says of dead letters in its own partition that they have been replayed."""

    partition: int
    time: float
    """Unix seconds."""
    offsets: tuple[range, ...]

    @classmethod
    def of(cls, record: ConsumerRecord) -> Mark | None:
        """Read a record of the topic; None where it is no mark."""
        text = next((value for name, value in record.headers if name == REPLAYED), None)
        if not text or not re.fullmatch(rb"\d{1,18}(-\d{1,18})?(,\d{1,18}(-\d{1,18})?)*", text):
            return None
        parts = (part.partition(b"-") for part in text.split(b","))
        offsets = tuple(range(int(first), int(last or first) + 1) for first, _, last in parts)
        return cls(record.partition, record.timestamp / 1000, offsets)

    def covers(self, offset: int) -> bool:
        """Whether the dead letter at this offset has been replayed."""
        return any(offset in offsets for offsets in self.offsets)

    @staticmethod
    def header(offsets: Iterable[int]) -> tuple[str, bytes]:
        """The header that marks these offsets: `3-17,19`."""
        runs: list[list[int]] = []
        for offset in sorted(offsets):
            if runs and offset == runs[-1][1] + 1:
                runs[-1][1] = offset
            else:
                runs.append([offset, offset])
        parts = (f"{first}-{last}" if last > first else f"{first}" for first, last in runs)
        return REPLAYED, ",".join(parts).encode()
