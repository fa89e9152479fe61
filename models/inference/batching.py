"""Device batches under a budget of rows and tokens.

A device batch is a rectangle: every row is padded to its longest. Rows of similar length are
therefore put together, and the budget counts the whole rectangle. A model that computes without
padding takes rows of any lengths together, and the budget counts their tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    batches: list[list[int]] = []
    tokens = 0
    for row in order:
        batch = batches[-1] if batches else []
        longest = lengths[batch[0]] if batch else 0
        if (
            batch
            and len(batch) < max_rows
            and _fits(longest, len(batch) + 1, tokens + lengths[row], max_tokens, padding_free)
        ):
            batch.append(row)
            tokens += lengths[row]
        else:
            batches.append([row])
            tokens = lengths[row]
    return batches


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
    first, end = anchor, anchor + 1
    tokens = lengths[anchor]

    def may_join(row: int) -> bool:
        if not 0 <= row < len(lengths):
            return False
        shortest, longest = min(lengths[row], lengths[first]), max(lengths[row], lengths[end - 1])
        similar = padding_free or longest <= 2 * max(shortest, SHORT // 2)
        rows = end - first + 1
        return similar and _fits(longest, rows, tokens + lengths[row], max_tokens, padding_free)

    while end - first < max_rows:
        longest, rows = lengths[end - 1], end - first
        shorter, longer = may_join(first - 1), may_join(end)
        if not shorter and not longer:
            break
        if shorter and (
            not longer or longest - lengths[first - 1] <= (lengths[end] - longest) * rows
        ):
            first -= 1
            tokens += lengths[first]
        else:
            tokens += lengths[end]
            end += 1
    return first, end


def _fits(longest: int, rows: int, tokens: int, max_tokens: int, padding_free: bool) -> bool:
    rectangle = rows * longest
    if padding_free:
        return tokens <= max_tokens and rectangle <= MOST_PADDING * max_tokens
    return rectangle <= max_tokens
