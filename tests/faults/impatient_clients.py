"""A worker whose Kafka clients wait less long than others, for a request as for room in a batch:
`python -m` this, then as `faust`.

With a slow device there is always something to deliver, also when the broker has just gone.
"""

from __future__ import annotations

import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from faust.cli.faust import cli

from app import delivery, transport
from benchmarks import slow_device

TIMEOUT_S = 2.0
"""Instead of 40 s, and of 20 s for Faust's own producer."""
BATCH_S = 0.2


def be_impatient() -> None:
    """Have every client give up soon, and a producer hold no more than a record in a batch."""
    for client in (AIOKafkaConsumer, AIOKafkaProducer, AIOKafkaAdminClient):
        client.__init__.__kwdefaults__["request_timeout_ms"] = int(TIMEOUT_S * 1000)
    delivery.BATCH_BYTES = 1
    transport.PRODUCER_TIMEOUT_S = TIMEOUT_S


if __name__ == "__main__":
    be_impatient()
    slow_device.BATCH_S = BATCH_S
    slow_device.slow_down()
    cli(sys.argv[1:])
