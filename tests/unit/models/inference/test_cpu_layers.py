"""Packed layers compute what the model's own do, within the precision of bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from models.inference.cpu_layers import can_pack, pack
from models.inference.registry import ModelRegistry
from models.inference.transformer import call

PACKED = ["bert", "camembert", "electra", "roberta", "xlm-roberta"]
PLAIN = ["distilbert", "mpnet", "deberta-v2", "modernbert"]

needs_instructions = pytest.mark.skipif(
    not can_pack(), reason="this CPU has no instructions for bfloat16"
)


@needs_instructions
@pytest.mark.parametrize("family", PACKED)
@pytest.mark.parametrize("padded", [False, True])
def test_packed_layers_are_as_close_to_float32_as_the_plain_ones(
    family: str, padded: bool, save: Callable[..., Path]
) -> None:
    folder = save(family, max_length=64, num_labels=3)
    models = [
        AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval()
        for dtype in (torch.float32, torch.bfloat16, torch.bfloat16)
    ]
    exact, _, packed = models
    assert pack(packed)

    generator = torch.Generator().manual_seed(1)
    token_ids = torch.randint(5, exact.config.vocab_size, (16, 24), generator=generator)
    mask = torch.ones_like(token_ids)
    if padded:
        lengths = torch.randint(1, 25, (16, 1), generator=generator)
        mask = (torch.arange(24) < lengths).long()
    with torch.inference_mode():
        logits, rough, ours = (
            call(model, token_ids, mask, None).logits.float() for model in models
        )
    error, ours_error = (rough - logits).abs().max(), (ours - logits).abs().max()
    assert ours_error <= 2 * error
    assert logits.abs().max() > 5 * ours_error, "the comparison means something"


@needs_instructions
@pytest.mark.parametrize("family", [*PACKED, *PLAIN])
def test_the_model_says_which_engine_it_has(family: str, save: Callable[..., Path]) -> None:
    folder = str(save(family, max_length=64, num_labels=3))

    def engine(**options: Any) -> str:
        registry = ModelRegistry.load({"m": folder}, device="cpu", **options)
        return str(registry.engine().describe()["engine"])

    assert engine(dtype="bfloat16") == ("packed" if family in PACKED else "plain")
    assert engine(dtype="bfloat16", engine="plain") == "plain"
    assert engine(dtype="float32") == "plain"


@needs_instructions
def test_packing_changes_no_count_of_parameters(save: Callable[..., Path]) -> None:
    folder = save("bert", max_length=64, num_labels=3)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).eval()
    before = sum(parameter.numel() for parameter in model.parameters())
    pack(model)
    assert sum(parameter.numel() for parameter in model.parameters()) == before
