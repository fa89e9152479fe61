"""Device batches under a budget of rows and tokens.

A device batch is a rectangle: every row is padded to its longest. Rows of similar length are
therefore put together, and the budget counts the whole rectangle. A model that computes without
padding takes rows of any lengths together, and the budget counts their tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from models.inference.tasks import Segment

SHORT = 64
"""Rows up to this many tokens go together whatever their lengths."""
MOST_PADDING = 4
"""A rectangle has at most so many times the budget of tokens where padding costs next to nothing:
it has to be made all the same."""


def pack(
    lengths: Sequence[int], *, max_rows: int, max_tokens: int, padding_free: bool = False
) -> list[list[int]]:
    """Pack rows of these lengths into batches, longest first.

    Each batch has at most `max_rows` rows and `max_tokens` tokens, padding included unless
    `padding_free`; a row longer than `max_tokens` stands alone.

    Returns:
        The row numbers of each batch, the longest row of a batch first. Every row is in exactly
        one batch; rows of one length keep their order.
    """
    most_padded = MOST_PADDING * max_tokens if padding_free else max_tokens
    batches: list[list[int]] = []
    batch: list[int] = []
    longest = tokens = 0
    for row in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        rows, tokens = len(batch) + 1, tokens + lengths[row]
        if not batch or rows > max_rows or tokens > max_tokens or longest * rows > most_padded:
            batch = []
            batches.append(batch)
            longest = tokens = lengths[row]
        batch.append(row)
    return batches


def rectangle(
    segments: Sequence[Segment], padding: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64] | None]:
    """Put the segments of a batch below each other.

    Args:
        padding: token id behind the shorter ones.

    Returns:
        Token ids, mask and token types, each (n, length); no types where all are zero.
    """
    lengths = np.fromiter(map(len, segments), np.int64, len(segments))
    mask = np.arange(lengths.max()) < lengths[:, None]  # (n, length)
    token_ids = _filled(mask, (segment.token_ids for segment in segments), padding)
    if all(segment.type_ids is None for segment in segments):
        return token_ids, mask, None
    types = (segment.type_ids or [0] * len(segment) for segment in segments)
    return token_ids, mask, _filled(mask, types, 0)


def _filled(
    mask: NDArray[np.bool_], rows: Iterator[Sequence[int]], padding: int
) -> NDArray[np.int64]:
    """Fill rows of numbers into the true places of a mask (n, length), padding elsewhere."""
    filled = np.full(mask.shape, padding, np.int64)
    filled[mask] = np.fromiter(chain.from_iterable(rows), np.int64, int(mask.sum()))
    return filled


def window(
    lengths: Sequence[int],
    anchor: int,
    *,
    max_rows: int,
    max_tokens: int,
    padding_free: bool = False,
) -> tuple[int, int]:
    """Choose company for one row among those that wait, the nearest in length first.

    Grows from the anchor to its neighbours in length while the batch has at most `max_rows` rows
    and `max_tokens` tokens, padding included unless `padding_free`. Where padding costs, a row
    joins only if the longest stays within twice the shortest (or within `SHORT`): a short document
    does not wait for a rectangle of long ones.

    Args:
        lengths: of the rows that wait, ascending.
        anchor: the row that has to be in the batch; too long for `max_tokens`, it stands alone.

    Returns:
        First row and row after the last.
    """
    most_padded = MOST_PADDING * max_tokens if padding_free else max_tokens
    stretch = math.inf if padding_free else 2
    first, end, tokens = anchor, anchor + 1, lengths[anchor]
    while (rows := end - first) < max_rows:
        longest = lengths[end - 1]
        shorter = lengths[first - 1] if first > 0 else None
        longer = lengths[end] if end < len(lengths) else None
        if shorter is not None and (
            longest * (rows + 1) > most_padded
            or tokens + shorter > max_tokens
            or longest > stretch * max(shorter, SHORT // 2)
        ):
            shorter = None
        if longer is not None and (
            longer * (rows + 1) > most_padded
            or tokens + longer > max_tokens
            or longer > stretch * max(lengths[first], SHORT // 2)
        ):
            longer = None
        if shorter is not None and (
            longer is None or longest - shorter <= (longer - longest) * rows
        ):
            first -= 1
            tokens += shorter
        elif longer is not None:
            end += 1
            tokens += longer
        else:
            break
    return first, end
