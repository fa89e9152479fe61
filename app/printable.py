"""What strangers wrote, in one line that does nothing to a terminal."""

from __future__ import annotations

import codecs


def printable(text: str, *, keep: str = "") -> str:
    """The text with all but printable characters, and those to `keep`, as escapes."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


def one_line(text: str) -> str:
    """The whole text in one line, safe to print."""
    return printable(" ".join(text.split()))


def beginning(value: str | bytes, length: int = 80) -> str:
    """The first characters of a text, or of what may be one, in one line, safe to print."""
    start = value[: 4 * length]
    if isinstance(start, bytes):
        # A character that is cut off at the end is left out; four bytes make the longest.
        start = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode(start)
    line = one_line(start)
    return line if len(line) <= length and len(value) <= 4 * length else f"{line[: length - 1]}…"
