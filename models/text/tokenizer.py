"""Text to token ids: a fast tokenizer whose truncation and padding are switched off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import tokenizers
from tokenizers import Encoding, normalizers


@dataclass(frozen=True, slots=True)
class _Part:
    """A run of special tokens, or the place of a text."""

    text: int | None
    """Which text stands here; None: special tokens."""
    special_ids: tuple[int, ...]
    type_id: int


@dataclass(frozen=True, slots=True)
class Template:
    """The special tokens around one text or a pair, as the tokenizer itself puts them."""

    parts: tuple[_Part, ...]
    n_special: int
    """Special tokens that it adds."""
    has_types: bool
    """Whether any token gets a type other than zero."""

    @classmethod
    def of(cls, probe: Encoding) -> Template:
        """Read the template off an encoding of one text or a pair, special tokens included."""
        tokens = zip(probe.sequence_ids, probe.type_ids, probe.ids, strict=True)
        parts = []
        for (text, type_id), run in groupby(tokens, key=lambda token: token[:2]):
            ids = tuple(token_id for _, _, token_id in run)
            parts.append(_Part(text, ids if text is None else (), type_id))
        return cls(
            parts=tuple(parts),
            n_special=sum(len(part.special_ids) for part in parts),
            has_types=any(probe.type_ids),
        )

    def fill(self, *texts: Sequence[int]) -> tuple[list[int], list[int] | None]:
        """Put token ids of the texts into the template: token ids, and type ids unless all zero."""
        ids: list[int] = []
        types: list[int] = []
        for part in self.parts:
            piece = part.special_ids if part.text is None else texts[part.text]
            ids.extend(piece)
            if self.has_types:
                types.extend([part.type_id] * len(piece))
        return ids, types if self.has_types else None


class Tokenizer:
    """A fast tokenizer of the `tokenizers` library; its methods may run in several threads.

    Args:
        fast: a tokenizer of transformers with `is_fast`; it belongs to this object from then on.
        lowercase: lower the text first, whatever the tokenizer does by itself.
    """

    def __init__(self, fast: Any, *, lowercase: bool = False) -> None:
        backend: tokenizers.Tokenizer = fast.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        if lowercase:
            own = [] if backend.normalizer is None else [backend.normalizer]
            backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
        self._backend = backend
        self.pad_id: int = fast.pad_token_id or 0
        self.max_length: int = int(fast.model_max_length)
        """Longest input by the tokenizer's own word; huge where it says nothing."""
        self.uses_types: bool = "token_type_ids" in fast.model_input_names
        probe = self._probe()
        self.single = Template.of(backend.encode(probe))
        self.pair = Template.of(backend.encode(probe, probe))
        unknown = fast.unk_token_id
        self.filler_id: int = self.pad_id if unknown is None else unknown
        """Stands for a text without tokens where the template adds none either."""
        self.unknown_token: str | None = fast.unk_token
        self.mask_token: str | None = fast.mask_token
        self.max_id: int = max(backend.get_vocab(with_added_tokens=True).values())

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Tokenize texts without special tokens, in parallel and outside the GIL.

        Raises:
            Exception: one of the texts cannot be tokenized, such as a lone surrogate.
        """
        return self._backend.encode_batch(list(texts), add_special_tokens=False)

    def _probe(self) -> str:
        """A text that yields at least one token, to see what is put around it."""
        for token in ("a", *islice(self._backend.get_vocab(with_added_tokens=True), 1000)):
            if self._backend.encode(token, add_special_tokens=False).ids:
                return token
        raise ValueError("its tokenizer makes no tokens of any text")
