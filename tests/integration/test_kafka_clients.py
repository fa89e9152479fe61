"""Apache Kafka's own command-line clients send requests and read what became of them."""

from __future__ import annotations

import json
import re

from app.settings import Settings
from tests.conftest import KafkaTool
from tests.workers import StartedWorker, eventually

LINES = (
    'a1\t{"text": "The goalkeeper saved a penalty in the last minute of the cup final."}\n'
    'a2\t{"text": "Shares of the bank fell after it reported a quarterly loss."}\n'
    "a3\tthis is no JSON\n"
)


def test_the_console_clients_produce_and_consume(
    worker: StartedWorker, module_settings: Settings, kafka_tool: KafkaTool
) -> None:
    settings = module_settings
    kafka_tool(
        *("console-producer", "--topic", settings.request_topic),
        *("--reader-property", "parse.key=true"),
        input=LINES.encode(),
    )
    consumed = kafka_tool(
        *("console-consumer", "--topic", settings.response_topic, "--from-beginning"),
        *("--max-messages", "3", "--timeout-ms", "30000"),
        *("--formatter-property", "print.key=true"),
    )
    lines = consumed.stdout.decode().splitlines()
    responses = {key: json.loads(value) for key, value in (line.split("\t", 1) for line in lines)}
    assert responses["a1"]["label"] == "Sports"
    assert responses["a2"]["label"] == "Business"
    assert responses["a3"]["error"]["code"] == "invalid_json"
    for key, response in responses.items():
        assert response["id"] == key

    def offsets_are_committed() -> bool:
        described = kafka_tool(
            *("consumer-groups", "--describe", "--group", settings.app_id)
        ).stdout.decode()
        rows = re.findall(rf"{settings.request_topic}\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)", described)
        return sum(int(committed) for _, committed, _, _ in rows) == 3 and all(
            lag == "0" for *_, lag in rows
        )

    eventually(offsets_are_committed, 30, "three offsets committed, no lag")
