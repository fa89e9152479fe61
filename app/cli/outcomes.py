"""Responses as lines for people, and what they come to."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from app.cli.documents import beginning

LABEL_WIDTH = 16


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
        if response.get("status") == "error":
            self.errors[response["error"]["code"]] += 1
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
    return response.get("status") == "error" or any(found is not None for found in labels)


def is_as_expected(document: Mapping[str, Any], response: Mapping[str, Any]) -> bool:
    """Whether the predicted label, or one of several, is the document's own."""
    predicted = response.get("labels") or [response.get("label")]
    return response.get("status") == "ok" and document["label"] in predicted


def describe(response: Mapping[str, Any]) -> tuple[str, str]:
    """What was predicted and how surely, each in a few characters."""
    if response.get("status") == "error":
        return response["error"]["code"], ""
    score = response.get("score")
    shown = "" if score is None else f"{score:.2f}"
    if response.get("label") is not None:
        return response["label"], shown
    if response.get("labels") is not None:
        return ", ".join(response["labels"]) or "none", shown
    if response.get("embedding") is not None:
        return f"{len(response['embedding'])} numbers", ""
    return str(response.get("task", "")), shown


def line(response: Mapping[str, Any], document: Mapping[str, Any] | None = None) -> Text:
    """One line: label, score and the beginning of the text, or else the id.

    Of a document with a label it says whether the prediction is as expected.
    """
    label, score = describe(response)
    failed = response.get("status") == "error"
    name = str(response.get("id", ""))
    if document is not None:
        name = beginning(str(document["text"]))
    mark, style = " ", "red" if failed else ""
    if document is not None and is_comparable(document, response):
        right = is_as_expected(document, response)
        mark, style = ("✓", "green") if right else ("≠", "yellow")
        if not right:
            name = f"(expected {document['label']}) {name}"
    message = f"  {response['error']['message']}" if failed else ""
    return Text.assemble(
        (mark, style),
        " ",
        (f"{label:<{LABEL_WIDTH}}", style),
        f" {score:>4}  ",
        name,
        (message, "dim"),
        no_wrap=True,
        overflow="ellipsis",
    )
