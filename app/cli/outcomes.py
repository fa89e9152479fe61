"""Responses as lines for people, and what they come to.

Anybody may write to the topic of responses: nothing here relies on what is in one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from rich.text import Text

from app.printable import beginning, one_line, printable

LABEL_WIDTH = 16
NO_RESPONSE = "(no response)"
"""Stands for the code of what is neither a prediction nor an error."""


@dataclass
class Summary:
    """Counts over the responses of one run."""

    answered: int = 0
    labelled: int = 0
    """Answered documents whose own label can be held against the prediction."""
    as_expected: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)

    def add(self, document: Mapping[str, Any], response: Mapping[str, Any]) -> None:
        """Count one answer."""
        self.answered += 1
        if (failed := failure(response)) is not None:
            self.errors[failed[0]] += 1
        if is_comparable(document, response):
            self.labelled += 1
            self.as_expected += is_as_expected(document, response)

    @property
    def seconds(self) -> float:
        """Time since the run began."""
        return time.monotonic() - self.began

    @property
    def accuracy(self) -> float | None:
        """Share of the labelled documents that were predicted as expected."""
        return self.as_expected / self.labelled if self.labelled else None


def is_comparable(document: Mapping[str, Any], response: Mapping[str, Any]) -> bool:
    """Whether the document has a label and the model, unlike one that embeds, gives labels."""
    if document.get("label") is None:
        return False
    labels = (response.get("label"), response.get("labels"))
    return failure(response) is not None or any(found is not None for found in labels)


def is_as_expected(document: Mapping[str, Any], response: Mapping[str, Any]) -> bool:
    """Whether the predicted label, or one of several, is the document's own."""
    labels = response.get("labels")
    predicted = labels if isinstance(labels, list) and labels else [response.get("label")]
    return failure(response) is None and document["label"] in predicted


def failure(response: Mapping[str, Any]) -> tuple[str, str] | None:
    """Code and message of an error, `NO_RESPONSE` and its beginning of what is no response.

    None for a prediction.
    """
    if response.get("status") == "ok":
        return None
    error = response.get("error")
    if response.get("status") == "error" and isinstance(error, Mapping):
        code, message = error.get("code"), error.get("message")
        if isinstance(code, str) and isinstance(message, str):
            return code, message
    return NO_RESPONSE, beginning(orjson.dumps(response))


def describe(response: Mapping[str, Any]) -> tuple[str, str]:
    """What was predicted and how surely, each in a few characters."""
    if (failed := failure(response)) is not None:
        return printable(failed[0]), ""
    label, labels, embedding, score = map(response.get, ("label", "labels", "embedding", "score"))
    shown = f"{score:.2f}" if isinstance(score, (int, float)) else ""
    if label is not None:
        return printable(str(label)), shown
    if isinstance(labels, list):
        return printable(", ".join(map(str, labels))) or "none", shown
    if isinstance(embedding, list):
        return f"{len(embedding)} numbers", ""
    return printable(str(response.get("task", ""))), shown


def line(response: Mapping[str, Any], document: Mapping[str, Any] | None = None) -> Text:
    """One line: label, score and the beginning of the text, or else the id.

    Of a document with a label it says whether the prediction is as expected.
    """
    label, score = describe(response)
    failed = failure(response)
    name = one_line(str(response.get("id", "")))
    if document is not None:
        name = beginning(str(document["text"]))
    mark, style = " ", "" if failed is None else "red"
    if document is not None and is_comparable(document, response):
        right = is_as_expected(document, response)
        mark, style = ("✓", "green") if right else ("≠", "yellow")
        if not right:
            name = f"(expected {one_line(str(document['label']))}) {name}"
    message = "" if failed is None else f"  {one_line(failed[1])}"
    return Text.assemble(
        (mark, style),
        " ",
        (f"{label:<{LABEL_WIDTH}}", style),
        f" {score:>4}  ",
        name,
        (message, "dim"),
    )
