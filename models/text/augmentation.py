"""Altered copies of the documents of a small labelled set, for a classifier to learn from too.

=======================  ======================================================================
synonyms, swap, delete   Wei and Zou 2019 (EDA), section 2; synonyms are those of a user's list
`[UNK]` and `[MASK]`     Xie et al. 2017, blank noising
noise of characters      Belinkov and Bisk 2018; Pruthi et al. 2019: drop, add, replace, swap
=======================  ======================================================================

A word is a run of letters and digits, with the apostrophes in it; in a script without spaces it is
as long as that run. Spaces and punctuation stay where they are, but for a space next to a word
that is deleted.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from heapq import heapify, heapreplace
from pathlib import Path

from models.errors import CorpusError
from models.text.corpora import parse_documents

# Accents and the vowel signs of Indic scripts are no `\w`, yet words do not end there.
_MARKS = "".join(c for c in map(chr, range(0x10000)) if unicodedata.category(c)[0] == "M")
_WORD = re.compile(rf"(\w[\w{_MARKS}]*(?:['’]\w[\w{_MARKS}]*)*)")

DRAWS = 8
"""Most times that a copy is drawn until it differs from its original."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A text that was made from a document; it has the labels of that document."""

    origin: int
    """Number of the document. A copy belongs to the side of a split on which its original is."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How a copy differs from its original: all steps, in this order, are taken on each copy.

    Raises:
        ValueError: a rate is no share, a token is missing, or a synonym is blank.
    """

    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Words and phrases, and what may stand for each. They are found in whatever case, the longest
    first, if they begin and end with a letter or digit."""
    synonym_rate: float = 0.1
    """Share of the words and phrases found that are replaced, in the case of what stood there:
    UPPER, Capitalised, or as it is listed."""
    unknown_rate: float = 0.0
    """Share of the words that become `unknown_token`."""
    mask_rate: float = 0.0
    """Share of the other words that become `mask_token`."""
    noise_rate: float = 0.0
    """Share of the other words in which one letter is dropped, doubled, replaced by another of its
    script and case, or swapped with the next."""
    swap_rate: float = 0.1
    """Share of the words that change places with the next."""
    deletion_rate: float = 0.1
    """Share of the words that are deleted; one is kept."""
    unknown_token: str | None = None
    """The text of the tokenizer's token for what is unknown; None if it has none."""
    mask_token: str | None = None
    """The text of the tokenizer's token for what is hidden; None if it has none."""
    _longest: int = field(init=False, repr=False, compare=False)
    """Words of the longest phrase in `synonyms`."""

    def __post_init__(self) -> None:
        for name in RATES:
            rate = getattr(self, name)
            if not 0 <= rate <= 1:
                raise ValueError(f"`{name}` is a share from 0 to 1, not {rate}")
        for name in ("unknown", "mask"):
            if getattr(self, f"{name}_rate") and not getattr(self, f"{name}_token"):
                raise ValueError(f"`{name}_rate` is above 0, but there is no `{name}_token`")
        synonyms: dict[str, tuple[str, ...]] = {}
        for phrase, alternatives in self.synonyms.items():
            if not (phrase.strip() and alternatives and all(map(str.strip, alternatives))):
                raise ValueError(f"`synonyms` has a blank, or nothing, for {phrase!r}")
            key = _folded(phrase)
            synonyms[key] = tuple(dict.fromkeys((*synonyms.get(key, ()), *alternatives)))
        object.__setattr__(self, "synonyms", synonyms)
        longest = max((len(_WORD.findall(key)) for key in synonyms), default=0)
        object.__setattr__(self, "_longest", longest)

    def apply(self, text: str, lots: random.Random) -> str:
        """Draw one altered copy of a text; it has a word if the text has one.

        Args:
            lots: what is drawn follows from them alone.
        """
        pieces = _WORD.split(text)  # a gap, a word, a gap, …, a word, a gap
        if len(pieces) == 1:
            return text
        self._replace_synonyms(pieces, lots)
        gaps, words = pieces[::2], [self._replaced(word, lots) for word in pieces[1::2]]
        for place in range(len(words) - 1):
            if lots.random() < self.swap_rate:
                words[place], words[place + 1] = words[place + 1], words[place]
        kept = [lots.random() >= self.deletion_rate for _ in words]
        if not any(kept):
            kept[lots.randrange(len(kept))] = True
        return _joined(words, gaps, kept)

    def _replace_synonyms(self, pieces: list[str], lots: random.Random) -> None:
        """Replace in place; a phrase becomes one word."""
        place = 1
        while place < len(pieces):
            furthest = min(place + 2 * self._longest, len(pieces)) - 1
            ends = range(furthest, place, -2)
            listed = (e for e in ends if _folded("".join(pieces[place:e])) in self.synonyms)
            end = next(listed, place + 1)
            phrase = "".join(pieces[place:end])
            synonyms = self.synonyms.get(_folded(phrase))
            if synonyms and lots.random() < self.synonym_rate:
                pieces[place:end] = [_in_case_of(phrase, lots.choice(synonyms))]
                end = place + 1
            place = end + 1

    def _replaced(self, word: str, lots: random.Random) -> str:
        if self.unknown_token and lots.random() < self.unknown_rate:
            return self.unknown_token
        if self.mask_token and lots.random() < self.mask_rate:
            return self.mask_token
        return _misspelt(word, lots) if lots.random() < self.noise_rate else word


RATES = tuple(option.name for option in fields(Augmentation) if option.name.endswith("_rate"))


def augment(
    texts: Sequence[str],
    labels: Sequence[tuple[str, ...]],
    options: Augmentation,
    *,
    minimum: int = 0,
    copies: int = 0,
    seed: int,
) -> list[Copy]:
    """Make copies of documents, in the order of their originals, which are not among them.

    A copy follows from the options, its text, the seed, the document's number and its own alone.
    One that equals its original after `DRAWS` draws is kept: the numbers are as they were asked
    for, and no document counts for less since it is short.

    Args:
        labels: of each document, any number of them.
        minimum: documents, copies included, that each label has afterwards at least. What it lacks
            is made of those of its documents that have the fewest copies.
        copies: of each document, before that.

    Raises:
        ValueError: there are not as many labels as texts, or a number is below 0.
    """
    if min(copies, minimum) < 0:
        raise ValueError(f"{copies} copies and a minimum of {minimum} documents cannot be made")
    documents: dict[str, list[int]] = {}
    for document, (_, names) in enumerate(zip(texts, labels, strict=True)):
        for name in dict.fromkeys(names):
            documents.setdefault(name, []).append(document)
    made = [copies] * len(texts)
    # The rarest label first: copies for it count for the other labels of its documents.
    for _, members in sorted(documents.items(), key=lambda item: (len(item[1]), item[0])):
        fewest = [(made[document], document) for document in members]
        heapify(fewest)
        for _ in range(minimum - sum(1 + made[document] for document in members)):
            document = fewest[0][1]
            made[document] += 1
            heapreplace(fewest, (made[document], document))
    return [
        Copy(document, _copy(text, options, random.Random(f"{seed} {document} {number}")))
        for document, text in enumerate(texts)
        for number in range(made[document])
    ]


def read_synonyms(path: Path | str) -> dict[str, tuple[str, ...]]:
    """Read a list of synonyms, as `Augmentation` takes them.

    A line is a group of words or phrases, with commas or tabs between them, each of which may stand
    for the others; one in several groups has the alternatives of all. Blank lines and lines that
    begin with `#` are passed over. The file is UTF-8.

    Raises:
        CorpusError: one line that names the file, the line and what is wrong.
    """
    path = Path(path)
    synonyms: dict[str, dict[str, None]] = {}
    try:
        with path.open("rb") as file:
            for line in parse_documents(file, ".txt", path):
                if line.text.startswith("#"):
                    continue
                words = (" ".join(word.split()) for word in re.split("[,\t]", line.text))
                group = {_folded(word): word for word in words if word}
                if len(group) < 2:
                    raise CorpusError(
                        f"{path}, line {line.line}: a group has two words or more, "
                        "with commas or tabs between them"
                    )
                for key in group:
                    others = (word for other, word in group.items() if other != key)
                    synonyms.setdefault(key, {}).update(dict.fromkeys(others))
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror or error}") from None
    if not synonyms:
        raise CorpusError(f"{path}: no synonyms")
    return {key: tuple(others) for key, others in synonyms.items()}


def _copy(text: str, options: Augmentation, lots: random.Random) -> str:
    draws = (options.apply(text, lots) for _ in range(DRAWS))
    return next((draw for draw in draws if draw != text), text)


def _folded(phrase: str) -> str:
    """As phrases are compared: without case, and with one space for any white space."""
    return " ".join(phrase.casefold().split())


def _in_case_of(phrase: str, synonym: str) -> str:
    if len(phrase) > 1 and phrase.isupper():
        return synonym.upper()
    return synonym[0].upper() + synonym[1:] if phrase[0].isupper() else synonym


def _joined(words: list[str], gaps: list[str], kept: list[bool]) -> str:
    text = gaps[0]
    for word, gap, keep in zip(words, gaps[1:], kept, strict=True):
        if keep:
            text += word + gap
        elif text.endswith(" "):
            text = text[:-1] + gap
        else:
            text += gap.removeprefix(" ")
    return text


def _misspelt(word: str, lots: random.Random) -> str:
    """Draw a slip in one letter; a word without letters stays."""
    letters = [place for place, character in enumerate(word) if character.isalpha()]
    if not letters:
        return word
    place = lots.choice(letters)
    before, letter, after = word[:place], word[place], word[place + 1 :]
    slips = [before + letter + letter + after]
    if others := _others(letter):
        slips.append(before + lots.choice(others) + after)
    if len(letters) > 1:
        slips.append(before + after)
    if after[:1].isalpha() and after[0] != letter:
        slips.append(before + after[0] + letter + after[1:])
    return lots.choice(slips)


@lru_cache(maxsize=4096)
def _others(letter: str) -> str:
    """Other letters of the same script and case: those near it in Unicode."""
    code = ord(letter)
    near = map(chr, range(max(0, code - 25), code + 26))
    return "".join(c for c in near if c != letter and _kind(c) == _kind(letter))


def _kind(character: str) -> tuple[str, str]:
    """Case, of a letter, and script."""
    return unicodedata.category(character), unicodedata.name(character, "").partition(" ")[0]
