"""Long documents are split into overlapping segments, at word boundaries where there are any."""

from __future__ import annotations

from collections.abc import Callable

from tokenizers import Encoding

StartsWord = Callable[[int], bool]
"""Whether the token of this number begins a word."""


def split(n_tokens: int, room: int, overlap: int, starts_word: StartsWord) -> list[tuple[int, int]]:
    """Split a document of `n_tokens` tokens into segments of at most `room` tokens.

    A segment ends at the last word boundary in the second half of its room, or, where a single
    word fills that half, inside the word. The next one begins up to `overlap` tokens before that
    end, at a word boundary too. `overlap` is clamped to half the room, so that every two segments
    advance by half a room at least and the work is linear in `n_tokens`.

    Returns:
        Start and end of each segment, in order. They cover every token; a document without tokens
        is one empty segment.
    """
    half = room // 2
    overlap = min(overlap, half)
    segments: list[tuple[int, int]] = []
    start = 0
    while n_tokens - start > room:
        full = start + room
        end = next((i for i in range(full, start + half, -1) if starts_word(i)), full)
        segments.append((start, end))
        start = next((i for i in range(end - overlap, end) if starts_word(i)), end - overlap)
    segments.append((start, n_tokens))
    return segments


def word_starts(text: str, encoding: Encoding) -> StartsWord:
    """Tell word starts in an encoded text.

    A word begins where the tokenizer's own pre-tokenization says so, and after white space, which
    some tokenizers do not split at.
    """
    words = encoding.word_ids
    offsets = encoding.offsets

    def starts_word(token: int) -> bool:
        if token == 0 or words[token] is None or words[token] != words[token - 1]:
            return True
        first = offsets[token][0]
        return text[first : first + 1].isspace() or text[max(first - 1, 0) : first].isspace()

    return starts_word
