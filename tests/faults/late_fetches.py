"""A worker whose event loop is late: what was fetched before a rebalance arrives after it.

A busy machine does that now and then; here it happens whenever it can.
"""

from __future__ import annotations

import asyncio
from typing import Any

from faust.cli.faust import cli

from app.transport import Consumer

POLL_S = 0.001


def hold_back_what_was_fetched() -> None:
    """Have records that come while the flow is stopped wait until it goes on."""
    wait_next_records = Consumer._wait_next_records

    async def late(self: Consumer, timeout: float) -> Any:  # noqa: ASYNC109 - as Faust calls it
        fetched = await wait_next_records(self, timeout)
        while not self.flow_active:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        return fetched

    Consumer._wait_next_records = late


if __name__ == "__main__":
    hold_back_what_was_fetched()
    cli()
