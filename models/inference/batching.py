"""Device batches under a budget of rows and tokens.

A device batch is a rectangle: every row is padded to its longest. Rows of similar length are
therefore put together, and the budget counts the whole rectangle.
"""

from __future__ import annotations

from collections.abc import Sequence


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
