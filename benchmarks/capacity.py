"""How much a worker answers when there is always something waiting."""

from __future__ import annotations

from benchmarks.faults.deployment import Deployment

WARM_UP_S = 10.0
CAPACITY_S = 20.0
FLOOD_RATE = 3000.0
"""More requests a second than the worker answers, so that its own speed is seen."""


def measure_capacity(site: Deployment) -> float:
    """Requests that the workers of a deployment answer in a second."""
    with site.load(rate=FLOOD_RATE) as load:
        load.run_for(WARM_UP_S)
        before = load.ledger.answered
        load.run_for(CAPACITY_S)
        answered = load.ledger.answered - before
        assert load.ledger.outstanding > answered / CAPACITY_S, "the worker keeps up with the flood"
    return answered / CAPACITY_S
