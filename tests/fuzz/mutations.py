"""Requests, spoilt in every way that a byte stream can be; the same for the same seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
TEXTS = ("Shares fell.", "a", "The striker scored twice.", "Öl", "\u0000", "😀", "石油", " ")
FIELDS = ("text", "id", "text_pair", "model", "top_k", "deadline_ms", "unknown")
SCALARS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64 - 1, 2**64, 10**30, 1.0, 1e308, -0.0),
    *("", " ", "x", "\x00", "\ufeff", "\u2028", "agnews", "no-such-model", [], {}, ["a"], {"a": 1}),
)
TOKENS = (
    *(b"NaN", b"Infinity", b"1e999", b"-", b"0x1", b"\\ud800", b"\\udc00\\ud800", b"\\u0000"),
    *(b"\\x", b"\x00", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xf4\x90\x80\x80"),
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"//", b"/**/", b"null", b"'", b"\\", b"\x1b[2J"),
)


def seeds() -> list[bytes]:
    """The values that are kept: each once broke something, or stands for a kind."""
    return [file.read_bytes() for file in sorted(CORPUS.iterdir())]


@dataclass
class Record:
    """A record to write; `header_name` is one more header, of a name that need not be UTF-8."""

    value: bytes | None
    key: bytes | None = None
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)
    header_name: bytes | None = None


class Mutations:
    """An endless supply of records, most of them broken in one to three ways."""

    def __init__(self, seed: int, reply_topics: Sequence[str] = ("bert-replies",)) -> None:
        self._random = random.Random(seed)
        self._seeds = seeds()
        self._reply_topics = reply_topics
        self._changes: tuple[Callable[[bytes], bytes], ...] = (
            *(self._flip_bits, self._cut, self._splice, self._insert, self._repeat, self._shuffle),
        )

    def record(self) -> Record:
        """The next record."""
        choice = self._random
        value = self.value()
        record = Record(value if choice.random() > 0.02 else None, self._key())
        if choice.random() < 0.2:
            record.headers = self._headers()
        if choice.random() < 0.01:
            record.header_name = choice.choice((b"\xff\xfe", b"caf\xe9", b"\xed\xa0\x80", b"\x80"))
        return record

    def value(self) -> bytes:
        """The value of the next record."""
        choice = self._random
        kind = choice.random()
        if kind < 0.25:
            value = json.dumps(self._object(), ensure_ascii=choice.random() < 0.5)
            return value.encode("utf-8", "surrogatepass")
        if kind < 0.28:
            depth = choice.choice((5, 1_023, 1_024, 1_025, 20_000))
            opening, closing = choice.choice(((b"[", b"]"), (b'{"a":', b"}")))
            inner = opening * depth + b"1" + closing * choice.choice((depth, depth - 1))
            return choice.choice((b'{"text":"a","deep":' + inner + b"}", inner))
        if kind < 0.31:
            return choice.randbytes(choice.randrange(64))
        value = choice.choice(self._seeds)
        for _ in range(choice.randrange(1, 4)):
            value = choice.choice(self._changes)(value)
        return value

    def _object(self) -> Any:
        """A request whose fields are right or of any other type, also twice or missing."""
        choice = self._random
        content: dict[str, Any] = {}
        if choice.random() < 0.9:
            content["text"] = choice.choice((*TEXTS, self._anything(2)))
        for name in FIELDS:
            if choice.random() < 0.25:
                content[name] = self._anything(3)
        if choice.random() < 0.1:
            content["id"] = choice.choice("ix\u0000é") * choice.choice((1, 1_000, 40_000, 70_000))
        return content if choice.random() < 0.95 else choice.choice(SCALARS)

    def _anything(self, depth: int) -> Any:
        choice = self._random
        kind = choice.random()
        if depth and kind < 0.1:
            return [self._anything(depth - 1) for _ in range(choice.randrange(4))]
        if depth and kind < 0.2:
            return {choice.choice(FIELDS): self._anything(depth - 1)}
        if kind < 0.3:
            return "".join(map(chr, choice.choices(range(0x20, 0xD800), k=choice.randrange(6))))
        if kind < 0.33:
            return chr(choice.randrange(0xD800, 0xE000))
        return choice.choice((*SCALARS, *TEXTS))

    def _key(self) -> bytes | None:
        choice = self._random
        kind = choice.random()
        if kind < 0.5:
            return None
        if kind < 0.505:
            return b"k" * choice.choice((65_536, 65_537, 300_000))
        return choice.choice((b"", b"key", b"\xff", b"\x00", "schlüssel".encode(), b'{"a":1}'))

    def _headers(self) -> list[tuple[str, bytes | None]]:
        choice = self._random
        values = (None, b"", b"v", b"\xff\xfe", b"\x00", b"x" * 2_000)
        names = ("", "tag", "traceparent", "tracestate", "correlation-id", "request-key", "ü", "\n")
        if choice.random() < 0.02:
            return [(f"h{n}", choice.choice(values)) for n in range(1_000)]
        headers = [
            (choice.choice(names), choice.choice(values)) for _ in range(choice.randrange(5))
        ]
        if choice.random() < 0.2:
            garbage = (b"\xff", b"", b"../x", b"no such", b"bert-responses", b"x" * 300, None)
            known = [topic.encode() for topic in self._reply_topics]
            headers.append(("reply-topic", choice.choice((*garbage, *known))))
        if choice.random() < 0.1:
            headers.append((choice.choice(("error.code", "source.offset")), b"forged"))
        return headers

    def _flip_bits(self, value: bytes) -> bytes:
        changed = bytearray(value)
        for _ in range(self._random.randrange(1, 4)):
            if changed:
                changed[self._random.randrange(len(changed))] ^= 1 << self._random.randrange(8)
        return bytes(changed)

    def _cut(self, value: bytes) -> bytes:
        begin, end = sorted(self._random.randrange(len(value) + 1) for _ in range(2))
        return self._random.choice((value[:end], value[begin:], value[:begin] + value[end:]))

    def _splice(self, value: bytes) -> bytes:
        other = self._random.choice(self._seeds)
        return (
            value[: self._random.randrange(len(value) + 1)]
            + other[self._random.randrange(len(other) + 1) :]
        )

    def _insert(self, value: bytes) -> bytes:
        at = self._random.randrange(len(value) + 1)
        return value[:at] + self._random.choice(TOKENS) + value[at:]

    def _repeat(self, value: bytes) -> bytes:
        begin, end = sorted(self._random.randrange(len(value) + 1) for _ in range(2))
        return value[:end] + value[begin:end] * self._random.randrange(1, 20) + value[end:]

    def _shuffle(self, value: bytes) -> bytes:
        parts = value.split(b",")
        self._random.shuffle(parts)
        return b",".join(parts)
