"""What doctor says of an error of Kafka."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from app.cli.doctor import _advised, _prediction
from app.errors import BrokerError, UnsupportedInput
from models.inference.tasks import Document


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


class Asked:
    """An engine that remembers what it was asked."""

    def predict(self, documents: Sequence[Document]) -> list[UnsupportedInput]:
        self.documents = documents
        return [UnsupportedInput("nothing suits")]


@pytest.mark.parametrize(("takes_pairs", "second"), [(True, "Second text."), (False, None)])
def test_a_model_that_takes_pairs_is_tried_with_one(takes_pairs: bool, second: str | None) -> None:
    engine = Asked()
    facts = {"name": "m", "task": "text-classification", "dtype": "float32", "device": "cpu"}
    found = _prediction(cast(Any, engine), facts | {"takes_pairs": takes_pairs})
    assert [document.text_pair for document in engine.documents] == [second]
    assert (found.status, "nothing suits" in found.detail) == ("fail", True)
