"""The box that sends one document."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from models.inference.registry import ModelRegistry


def test_a_document_is_tried_from_the_keyboard(page: Page, site: Any) -> None:
    site.open(page)
    page.get_by_role("textbox", name="Document").fill("The home side scored twice.")
    page.keyboard.press("Control+Enter")
    result = page.get_by_role("region", name="Prediction")
    expect(result.locator(".label")).to_have_text("Sports")
    expect(result.locator(".bars li").first).to_have_text("Sports97.3 %")
    fill = result.locator(".fill").first
    assert fill.evaluate("bar => bar.style.width") == "97.31%"
    for text in ("Total15 ms", "Queued4.1 ms", "Inference9.8 ms", "Segments2", "Tokens311"):
        expect(result.locator(".times")).to_contain_text(text)
    expect(result).to_contain_text("bert-requests, partition 3, offset 1207")
    assert site.asked == [{"text": "The home side scored twice."}]
    expect(page.get_by_role("textbox", name="Document")).to_be_focused()


def test_an_example_can_be_tried(page: Page, site: Any) -> None:
    site.open(page)
    page.get_by_role("button", name="Use an example").click()
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#try-result .label")).to_have_text("Sports")
    assert len(site.asked[0]["text"]) > 40


def test_a_blank_document_is_not_sent(page: Page, site: Any) -> None:
    site.open(page)
    page.get_by_role("textbox", name="Document").fill("  \n")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#try-result")).to_have_text("Write or paste a document first.")
    expect(page.get_by_role("textbox", name="Document")).to_be_focused()
    assert site.asked == []


def test_one_document_at_a_time(page: Page, site: Any, prediction: dict[str, Any]) -> None:
    seen = threading.Event()

    async def slow(request: dict[str, Any]) -> dict[str, Any]:
        await asyncio.to_thread(seen.wait, 60)
        return prediction

    site.answer = slow
    site.open(page)
    page.get_by_role("textbox", name="Document").fill("A text.")
    for _ in range(3):
        page.keyboard.press("Control+Enter")
    expect(page.locator("#try-send")).to_have_text("Predicting…")
    seen.set()
    expect(page.locator("#try-result .label")).to_have_text("Sports")
    expect(page.locator("#try-send")).to_have_text("Predict")
    assert len(site.asked) == 1


def test_an_error_shows_its_code_and_message(page: Page, site: Any) -> None:
    async def refuse(request: dict[str, Any]) -> dict[str, Any]:
        error = {"code": "out_of_memory", "message": "the device is full", "retryable": True}
        return {"id": "a", "status": "error", "error": error}

    site.answer = refuse
    site.open(page)
    page.get_by_role("textbox", name="Document").fill("A text.")
    page.keyboard.press("Control+Enter")
    result = page.locator("#try-result")
    expect(result.locator(".code")).to_have_text("out_of_memory")
    expect(result).to_contain_text("The device is full.")
    expect(result).to_contain_text("It may work when tried again.")


@pytest.mark.parametrize(
    ("task", "fields", "shown"),
    [
        ("multi-label-classification", {"labels": ["a", "b"], "label": None}, "a, b"),
        (
            "multi-label-classification",
            {"labels": [], "label": None},
            "No label above its threshold",
        ),
        ("regression", {"label": None, "scores": None, "score": 3.25}, "3.2500"),
        (
            "embedding",
            {"label": None, "scores": None, "score": None, "embedding": [0.5] * 384},
            "384 numbers",
        ),
    ],
)
def test_other_tasks(
    page: Page,
    site: Any,
    prediction: dict[str, Any],
    task: str,
    fields: dict[str, Any],
    shown: str,
) -> None:
    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        return prediction | {"task": task} | fields

    site.answer = answer
    site.open(page)
    page.get_by_role("textbox", name="Document").fill("A text.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#try-result .label")).to_have_text(shown)


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What a worker tells of the built-in model, and of a classifier that takes pairs."""
    folder = tmp_path_factory.mktemp("pairs")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two"]
    BertTokenizerFast(vocab={word: number for number, word in enumerate(words)}).save_pretrained(
        folder
    )
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    registry = ModelRegistry.load({"agnews": "builtin", "pairs": str(folder)}, device="cpu")
    with closing(registry):
        return registry.describe()


def test_a_model_can_be_chosen_and_a_second_text_given_to_one_that_takes_it(
    page: Page, site: Any, described: list[dict[str, Any]]
) -> None:
    site.source.values = {"models": described}
    site.open(page)
    choice = page.get_by_label("Model", exact=True)
    second = page.get_by_label("Second text")
    expect(choice.locator("option")).to_have_text(["agnews (default)", "pairs"])
    expect(second).to_be_hidden()
    choice.select_option("pairs")
    second.fill("Two.")
    page.get_by_role("textbox", name="Document").fill("One.")
    for pair in ("Two.", " "):
        second.fill(pair)
        page.get_by_role("button", name="Predict").click()
        expect(page.locator("#try-result .label")).to_be_visible()
        expect(page.locator("#try-send")).to_have_text("Predict")
    second.fill("Two.")
    choice.select_option("agnews")
    expect(second).to_be_hidden()
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#try-send")).to_have_text("Predict")
    assert site.asked == [
        {"text": "One.", "text_pair": "Two.", "model": "pairs"},
        {"text": "One.", "model": "pairs"},
        {"text": "One.", "model": "agnews"},
    ]
