"""What the embedded broker works out by itself."""

from __future__ import annotations

import re

import pytest

from app.broker import _new_cluster_id, _telling_line
from app.kafka_config import server_properties


def test_a_cluster_id_is_no_option_of_a_command() -> None:
    assert all(re.fullmatch(r"\w[\w-]{21}", _new_cluster_id()) for _ in range(2000))


def test_properties_of_any_script_are_escaped_and_listeners_added() -> None:
    listener = "SASL_PLAINTEXT://127.0.0.1:3"
    added = {"listeners": listener, "ssl.key.password": "a\\ü😀", "node.id": "7"}
    lines = server_properties(1, 2, added).splitlines()
    assert f"listeners=PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2,{listener}" in lines
    assert "advertised.listeners=PLAINTEXT://127.0.0.1:1" in lines
    assert "ssl.key.password=a\\u005c\\u00fc\\ud83d\\ude00" in lines
    assert [line for line in lines if line.startswith("node.id=")] == ["node.id=7"]


@pytest.mark.parametrize(
    ("lines", "telling"),
    [
        ([], ""),
        (["starting", ""], "starting"),
        (["x ERROR Exiting", "y INFO bye"], "x ERROR Exiting"),
        (['Exception in thread "main" a.ConfigException: no', "\tat a.B"], None),
        (["x ERROR e", "a.KafkaException: f", "\tat a.B", "Caused by: a.IOException: full"], None),
    ],
)
def test_the_innermost_cause_is_told(lines: list[str], telling: str | None) -> None:
    causes = [line for line in lines if "Exception: " in line]
    assert _telling_line(lines) == (causes[-1] if telling is None else telling)
