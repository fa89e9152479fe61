"""Responses as lines, and what they come to."""

from __future__ import annotations

import io
from typing import Any

import orjson
import pytest
from rich.console import Console

from app.cli import console
from app.cli.outcomes import Summary, describe, is_as_expected, line


def ok(**fields: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("label", "score", "scores", "labels", "embedding"))
    return {"id": "a1", "status": "ok", "task": "text-classification"} | empty | fields


ERROR = {"id": "a2", "status": "error", "error": {"code": "empty_text", "message": "no text"}}
ESCAPE = "\x1b]0;x\x07\x9b2J\r\n"


@pytest.mark.parametrize(
    ("response", "described"),
    [
        (ok(label="Sports", score=0.984), ("Sports", "0.98")),
        (ok(labels=["joy", "love"]), ("joy, love", "")),
        (ok(labels=[]), ("none", "")),
        (ok(embedding=[0.0] * 384), ("384 numbers", "")),
        (ok(task="regression", score=-1.5), ("regression", "-1.50")),
        (ERROR, ("empty_text", "")),
    ],
)
def test_describe(response: dict[str, Any], described: tuple[str, str]) -> None:
    assert describe(response) == described


def test_a_line_marks_what_was_not_expected() -> None:
    document = {"text": "A goal\nin the last minute", "label": "Sports"}
    right = line(ok(label="Sports", score=0.98), document).plain
    wrong = line(ok(label="World", score=0.61), document).plain
    assert right == "✓ Sports           0.98  A goal in the last minute"
    assert wrong == "≠ World            0.61  (expected Sports) A goal in the last minute"


def test_a_line_without_a_document_has_the_id() -> None:
    assert line(ok(label="Sports", score=0.98)).plain == "  Sports           0.98  a1"
    assert line(ERROR).plain == "  empty_text             a2  no text"


def test_texts_are_no_markup() -> None:
    document = {"text": "[bold]not bold[/bold] [/]"}
    assert document["text"] in line(ok(label="World", score=1.0), document).plain


@pytest.mark.parametrize(
    "response",
    [
        ok(id=ESCAPE, label=ESCAPE, score=1.0),
        ok(labels=[ESCAPE]),
        ok(task=ESCAPE),
        {"id": ESCAPE, "status": "error", "error": {"code": ESCAPE, "message": ESCAPE}},
        {"id": ESCAPE, ESCAPE: ESCAPE},
    ],
)
def test_a_line_does_nothing_to_the_terminal(response: dict[str, Any]) -> None:
    document = {"text": ESCAPE, "label": ESCAPE}
    assert line(response).plain.isprintable()
    assert line(response, document).plain.isprintable()
    assert "]0;x" in line(response).plain


@pytest.mark.parametrize(
    "response",
    [
        {},
        {"status": "error"},
        {"status": "error", "error": "text"},
        {"status": "error", "error": {"code": 1, "message": []}},
        {"status": ["ok"], "id": {}, "label": "Sports"},
    ],
)
def test_what_is_no_response_is_shown_as_that(response: dict[str, Any]) -> None:
    assert line(response).plain.startswith("  (no response)")
    assert line(response).plain.endswith(orjson.dumps(response).decode())
    summary = Summary()
    summary.add({"text": "…", "label": "World"}, response)
    assert summary.errors == {"(no response)": 1}
    assert summary.as_expected == 0


@pytest.mark.parametrize(
    "fields", [{"label": {"a": 1}}, {"labels": [None, 3]}, {"labels": 3}, {"score": "high"}, {}]
)
def test_a_prediction_of_another_shape_is_shown_all_the_same(fields: dict[str, Any]) -> None:
    assert line(ok(**fields), {"text": "A goal", "label": "World"}).plain.endswith("A goal")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_row_is_one_line_cut_in_a_terminal_alone(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    out = Console(file=written, force_terminal=terminal, width=80, color_system=None)
    monkeypatch.setattr(console, "out", out)
    row = line({"id": "a1", "status": "error", "error": {"code": "c", "message": "word " * 60}})
    console.print_line(row)
    [shown] = written.getvalue().splitlines()
    assert shown == (f"{row.plain[:79]}…" if terminal else row.plain)


def test_several_labels_hold_the_expected_one() -> None:
    assert is_as_expected({"label": "love"}, ok(labels=["joy", "love"]))
    assert not is_as_expected({"label": "fear"}, ok(labels=["joy", "love"]))
    assert not is_as_expected({"label": "fear"}, ERROR)


def test_a_summary_counts() -> None:
    summary = Summary()
    assert summary.accuracy is None
    summary.add({"text": "…"}, ok(label="World"))
    summary.add({"text": "…", "label": "World"}, ok(label="World"))
    summary.add({"text": "…", "label": "World"}, ok(label="Sports"))
    summary.add({"text": " ", "label": "World"}, ERROR)
    summary.add({"text": " "}, ERROR)
    assert summary.answered == 5
    assert summary.errors == {"empty_text": 2}
    assert (summary.labelled, summary.as_expected) == (3, 1)
    assert summary.accuracy == pytest.approx(1 / 3)


def test_an_embedding_is_held_against_no_label() -> None:
    summary = Summary()
    document = {"text": "A goal.", "label": "Sports"}
    response = {"id": "a", "status": "ok", "task": "embedding", "embedding": [0.1, 0.2]}
    summary.add(document, response)
    assert (summary.answered, summary.labelled, summary.accuracy) == (1, 0, None)
    assert "expected" not in line(response, document).plain
