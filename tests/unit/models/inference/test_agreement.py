"""A model that a lower precision harms is found when it is loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.inference.agreement import MOST_DIFFERENCE, Reference
from models.inference.engine import Engine
from models.inference.registry import ModelRegistry

Save = Callable[..., Path]


def load(spec: str, dtype: str) -> ModelRegistry:
    return ModelRegistry.load({"m": spec}, device="cpu", dtype=dtype)


def dtype_of(engine: Engine) -> str:
    return str(engine.describe()["dtype"])


@pytest.fixture
def delicate(save: Save) -> str:
    """A classifier whose logits are what is left of two large numbers."""
    folder = save("bert", max_length=64, num_labels=3)
    file = folder / "model.safetensors"
    weights = load_file(file)
    generator = torch.Generator().manual_seed(1)
    like = weights["classifier.weight"]
    weights["classifier.weight"] = 3e3 + 0.1 * torch.randn(like.shape, generator=generator)
    # tanh lets the pooled output be small, and its sum nothing.
    weights["classifier.bias"] = torch.zeros(3)
    weights["bert.pooler.dense.bias"] = torch.zeros_like(weights["bert.pooler.dense.bias"])
    half = len(weights["bert.pooler.dense.weight"]) // 2
    weights["bert.pooler.dense.weight"][half:] = -weights["bert.pooler.dense.weight"][:half]
    save_file(weights, file, metadata={"format": "pt"})
    return str(folder)


def test_a_sound_model_agrees_in_bfloat16() -> None:
    rough, exact = (load("builtin", dtype).engine() for dtype in ("bfloat16", "float32"))
    assert dtype_of(rough) == "bfloat16"
    reference = Reference.of(exact)
    assert reference is not None
    assert 0 < reference.difference(rough) < MOST_DIFFERENCE / 2
    assert reference.difference(exact) == 0.0


def test_one_that_does_not_is_given_float32(
    delicate: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.inference.device.computes_bfloat16", lambda _: True)
    with caplog.at_level(logging.WARNING):
        assert dtype_of(load(delicate, "auto").engine()) == "float32"
    assert "from float32 in bfloat16: taking float32" in caplog.text


def test_whoever_asks_for_a_precision_gets_it_and_is_told(
    delicate: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert dtype_of(load(delicate, "bfloat16").engine()) == "bfloat16"
    assert "try DTYPE=float32" in caplog.text
