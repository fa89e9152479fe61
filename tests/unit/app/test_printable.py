"""What strangers wrote does nothing to a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.printable import beginning, one_line, printable


@given(st.binary(max_size=400) | st.text(max_size=400), st.integers(1, 60))
def test_a_beginning_is_short_and_printable(value: bytes | str, length: int) -> None:
    text = beginning(value, length)
    assert len(text) <= length
    assert text.isprintable()


def test_a_beginning_ends_between_characters() -> None:
    assert beginning("né \n\t😀".encode(), 10) == "né 😀"
    assert beginning(b"a\x1b[2J\xff", 20) == "a\\x1b[2J\\xff"
    assert beginning("😀".encode() * 11, 10) == "😀" * 9 + "…"


def test_the_beginning_of_a_text_is_one_line() -> None:
    assert beginning("one\n\ttwo  three") == "one two three"
    assert beginning("word " * 100, 20) == "word word word word…"


def test_what_moves_the_cursor_or_turns_the_text_is_shown_as_an_escape() -> None:
    assert printable("a\nb\u202e", keep="\n") == "a\nb\\u202e"
    assert one_line("a\r\n\x1b]0;x\x07 \x9b2J\ud800") == "a \\x1b]0;x\\x07 \\x9b2J\\ud800"
