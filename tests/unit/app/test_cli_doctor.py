"""What doctor says of an error of Kafka."""

from __future__ import annotations

import pytest

from app.cli.doctor import _advised
from app.errors import BrokerError


@pytest.mark.parametrize(
    ("said", "detail", "advice"),
    [
        (
            "no Kafka broker at here:1 (connection refused): check it (and its port)",
            "no Kafka broker at here:1 (connection refused)",
            "check it (and its port)",
        ),
        ("the broker refuses: not authorized", "the broker refuses: not authorized", "its log"),
    ],
)
def test_an_error_comes_with_advice_and_as_it_was_said(said: str, detail: str, advice: str) -> None:
    found, mend = _advised(BrokerError(said))
    assert found == detail
    assert mend.startswith(advice)
