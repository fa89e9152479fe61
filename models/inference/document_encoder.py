"""From documents to segments: the first of the engine's three stages."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Encoding

from models.errors import InferenceError, ModelLoadError, UnsupportedInput
from models.inference.tasks import Document, EncodedDocument, Segment
from models.text.segmentation import split, word_starts
from models.text.tokenizer import Template, Tokenizer


class DocumentEncoder:
    """Tokenizes documents and splits them into segments that fit a model's window.

    Args:
        window: most tokens of a segment, special tokens included.
        vocabulary: rows of the model's embedding table; no token id may reach it.
        overlap: tokens that two neighbouring segments share, at most half the room.
        prompt: text in front of every document; its tokens are repeated in every segment.
        takes_pairs: whether the model takes a second text.
        takes_types: whether the model takes token types.

    Raises:
        ModelLoadError: special tokens and prompt leave no room for a document.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        window: int,
        vocabulary: int,
        overlap: int,
        prompt: str = "",
        takes_pairs: bool = False,
        takes_types: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._window = window
        self._vocabulary = vocabulary
        self._overlap = overlap
        self._prompt = prompt
        self._takes_pairs = takes_pairs
        self._takes_types = takes_types
        self._has_unknown_ids = tokenizer.max_id >= vocabulary
        taken = tokenizer.single.n_special + len(tokenizer.encode([prompt])[0])
        if window - taken < self._least_room:
            raise ModelLoadError(
                f"its window of {window} tokens leaves no room for a document: special tokens "
                f"and prompt take {taken}"
            )

    def encode(self, documents: Sequence[Document]) -> list[EncodedDocument | InferenceError]:
        """Encode documents; one that the model cannot take gives its error in its place."""
        texts = [self._prompt + document.text for document in documents]
        pairs = [d.text_pair for d in documents if d.text_pair is not None and self._takes_pairs]
        encodings = self._tokenize(texts + pairs)
        seconds = iter(encodings[len(texts) :])
        encoded: list[EncodedDocument | InferenceError] = []
        for document, text, first in zip(documents, texts, encodings, strict=False):
            try:
                if document.text_pair is None:
                    segments, tokens = self._segments(text, first, None)
                elif self._takes_pairs:
                    segments, tokens = self._segments(text, first, next(seconds))
                else:
                    raise UnsupportedInput("this model takes one text, not a pair")
            except InferenceError as error:
                encoded.append(error)
            else:
                encoded.append(EncodedDocument(document, segments, tokens))
        return encoded

    def _tokenize(self, texts: list[str]) -> list[Encoding | UnsupportedInput]:
        try:
            return list(self._tokenizer.encode(texts))
        except Exception as error:
            if len(texts) == 1:
                return [
                    UnsupportedInput(f"the text cannot be tokenized: {_reason(texts[0], error)}")
                ]
        return [outcome for text in texts for outcome in self._tokenize([text])]

    def _segments(
        self,
        text: str,
        first: Encoding | UnsupportedInput,
        second: Encoding | UnsupportedInput | None,
    ) -> tuple[tuple[Segment, ...], int]:
        """The segments of a text, each with the whole second text, and the text's token count."""
        for encoding in (first, second):
            if isinstance(encoding, UnsupportedInput):
                raise encoding
        assert isinstance(first, Encoding)
        ids = self._checked(first.ids)
        n_prompt = self._prompt_tokens(first)
        tokens = len(ids) - n_prompt
        if isinstance(second, Encoding):
            template, second_ids = self._tokenizer.pair, self._checked(second.ids)
        else:
            template, second_ids = self._tokenizer.single, []
        room = self._window - template.n_special - n_prompt - len(second_ids)
        if room < min(tokens, self._least_room):
            raise UnsupportedInput(
                f"text_pair has {len(second_ids)} tokens; with it no room for text is left in "
                f"the model's window of {self._window}"
            )
        if tokens <= room:
            return (self._segment(template, ids, tokens, second_ids),), tokens
        starts_word = word_starts(text, first)
        spans = split(tokens, room, self._overlap, lambda token: starts_word(token + n_prompt))
        prompt_ids = ids[:n_prompt]
        return tuple(
            self._segment(
                template,
                prompt_ids + ids[n_prompt + start : n_prompt + end],
                end - start,
                second_ids,
            )
            for start, end in spans
        ), tokens

    @property
    def _least_room(self) -> int:
        """Less than this would make far too many segments of a long text."""
        return max(1, self._window // 32)

    def _segment(
        self, template: Template, ids: list[int], weight: int, second_ids: list[int]
    ) -> Segment:
        token_ids, type_ids = template.fill(ids, second_ids)
        if not token_ids:
            token_ids, type_ids = [self._tokenizer.filler_id], None
        return Segment(token_ids, type_ids if self._takes_types else None, weight)

    def _prompt_tokens(self, encoding: Encoding) -> int:
        """How many tokens of an encoded text lie within the prompt."""
        if not self._prompt:
            return 0
        length = len(self._prompt)
        ends = enumerate(end for _, end in encoding.offsets)
        return next((token for token, end in ends if end > length), len(encoding))

    def _checked(self, ids: list[int]) -> list[int]:
        """Refuse ids that the embedding table does not have; a GPU would not survive them."""
        if self._has_unknown_ids and max(ids, default=0) >= self._vocabulary:
            raise UnsupportedInput("the text has a token that the model has no embedding for")
        return ids


def _reason(text: str, error: Exception) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "it has a lone surrogate"
    return str(error)
