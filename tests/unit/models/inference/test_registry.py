"""Several models by name, and what is said when one of them cannot be had."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import transformers

from models.errors import MAX_MESSAGE_CHARS, ModelLoadError, UnknownModel
from models.inference.registry import ModelRegistry
from models.inference.tasks import Document

Save = Callable[..., Path]


@pytest.fixture
def specs(save: Save) -> dict[str, str]:
    return {
        "topics": str(save(folder="topics", num_labels=3)),
        "vectors": str(save("roberta", folder="vectors")),
    }


def test_models_by_name(specs: dict[str, str]) -> None:
    registry = ModelRegistry.load(specs, device="cpu", dtype="float32")
    assert registry.default == "topics"
    assert registry.names == ("topics", "vectors")
    assert registry.engine() is registry.engine("topics")
    assert registry.engine("vectors").predict([Document("a")])[0].model == "vectors"
    assert [(m["name"], m["default"]) for m in registry.describe()] == [
        ("topics", True),
        ("vectors", False),
    ]
    registry.warm_up()
    registry.close()


def test_unknown_model(specs: dict[str, str]) -> None:
    registry = ModelRegistry.load(specs, device="cpu")
    with pytest.raises(UnknownModel, match="topics, vectors"):
        registry.engine("sentiment")


@pytest.mark.parametrize("character", ["a", "\x7f", "\U0001f600"])
def test_of_a_name_of_any_length_little_is_quoted(specs: dict[str, str], character: str) -> None:
    registry = ModelRegistry.load(specs, device="cpu")
    with pytest.raises(UnknownModel, match="topics, vectors") as raised:
        registry.engine(character * 100_000)
    assert f"no model {repr(character)[:-1]}" in str(raised.value)
    assert len(str(raised.value)) <= MAX_MESSAGE_CHARS


def test_the_error_names_the_model(specs: dict[str, str], tmp_path: Path) -> None:
    specs["third"] = str(tmp_path)
    with pytest.raises(ModelLoadError, match=r"^model third: .*holds no config\.json"):
        ModelRegistry.load(specs, device="cpu")


def test_progress_says_what_is_loaded(specs: dict[str, str]) -> None:
    lines: list[str] = []
    ModelRegistry.load(specs, device="cpu", dtype="float32", progress=lines.append)
    assert any(specs["vectors"] in line for line in lines)
    assert "vectors: roberta" in lines[-1]
    assert "float32 on cpu" in lines[-1]


def test_loading_is_silent_and_leaves_no_trace(
    specs: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    transformers.utils.logging.set_verbosity_info()
    try:
        ModelRegistry.load(specs, device="cpu", dtype="bfloat16")
        assert transformers.utils.logging.get_verbosity() == logging.INFO
        assert transformers.utils.logging.is_progress_bar_enabled()
    finally:
        transformers.utils.logging.set_verbosity_warning()
    assert torch.get_default_dtype() is torch.float32
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_several_threads_may_load_at_once(specs: dict[str, str]) -> None:
    expected = ModelRegistry.load(specs, device="cpu", dtype="float32")

    def load(dtype: str) -> ModelRegistry:
        return ModelRegistry.load(specs, device="cpu", dtype=dtype)

    with ThreadPoolExecutor(4) as threads:
        registries = list(threads.map(load, ["float32", "bfloat16"] * 4))
    document = Document("The old bridge")
    for dtype, registry in zip(["float32", "bfloat16"] * 4, registries, strict=True):
        assert {model["dtype"] for model in registry.describe()} == {dtype}
        scores = registry.engine().predict([document])[0].scores
        exact = expected.engine().predict([document])[0].scores
        assert scores == pytest.approx(exact, abs=1e-6 if dtype == "float32" else 0.1)


def test_no_model_at_all() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ModelRegistry.load({}, device="cpu")
