"""Device batches under a budget of rows and tokens.

A device batch is a rectangle: every row is padded to its longest. Rows of similar length are
therefore put together, and the budget counts the whole rectangle.
"""

from __future__ import annotations

from collections.abc import Sequence

SHORT = 64
"""Rows up to this many tokens go together whatever their lengths."""


def pack(lengths: Sequence[int], *, max_rows: int, max_tokens: int) -> list[list[int]]:
    """Pack rows of these lengths into batches, longest first.

    Each batch has at most `max_rows` rows and `max_tokens` tokens, padding included; a row
    longer than `max_tokens` stands alone.

    Returns:
        The row numbers of each batch, the longest row of a batch first. Every row is in exactly
        one batch; rows of one length keep their order.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    batches: list[list[int]] = []
    start = 0
    while start < len(order):
        longest = max(lengths[order[start]], 1)
        rows = max(1, min(max_rows, max_tokens // longest))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def window(
    lengths: Sequence[int], anchor: int, *, max_rows: int, max_tokens: int
) -> tuple[int, int]:
    """Choose company for one row among those that wait, the least padding first.

    Grows from the anchor to its neighbours in length while the rectangle has at most `max_rows`
    rows and `max_tokens` tokens. A row joins only if the longest stays within twice the shortest
    (or within `SHORT`): a short document does not wait for a rectangle of long ones.

    Args:
        lengths: of the rows that wait, ascending.
        anchor: the row that has to be in the batch; too long for `max_tokens`, it stands alone.

    Returns:
        First row and row after the last.
    """
    first, end = anchor, anchor + 1
    while end - first < max_rows:
        longest, rows = lengths[end - 1], end - first
        shorter = lengths[first - 1] if first > 0 else None
        longer = lengths[end] if end < len(lengths) else None
        if shorter is not None and (
            longest > 2 * max(shorter, SHORT // 2) or longest * (rows + 1) > max_tokens
        ):
            shorter = None
        if longer is not None and (
            longer > 2 * max(lengths[first], SHORT // 2) or longer * (rows + 1) > max_tokens
        ):
            longer = None
        if shorter is None and longer is None:
            break
        if longer is None or (
            shorter is not None and longest - shorter <= (longer - longest) * rows
        ):
            first -= 1
        else:
            end += 1
    return first, end
