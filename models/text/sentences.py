"""Text to sentences, by the rules of its language."""

from __future__ import annotations

import sentencex


def split_sentences(text: str, language: str = "en") -> list[str]:
    """Split a text into its sentences, without the white space around them.

    Args:
        language: as ISO 639 names it (`en`, `de`); rules of a related one stand in where there are
            none for it.
    """
    pieces = (sentence.strip() for sentence in sentencex.segment(language, text))
    return [piece for piece in pieces if piece]
