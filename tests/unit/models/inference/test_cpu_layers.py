"""Packed layers compute what the model's own do, within the precision of bfloat16."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from models.inference.cpu_layers import can_pack, pack_layers
from models.inference.registry import ModelRegistry
from models.inference.transformer import call

PACKED = ["bert", "camembert", "electra", "roberta", "xlm-roberta"]
PLAIN = ["distilbert", "mpnet", "deberta-v2", "modernbert"]


def test_layers_are_packed_where_the_cpu_has_instructions_for_bfloat16() -> None:
    flags = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    assert can_pack() == ("avx512_bf16" in flags or "amx_bf16" in flags)


def logits(model: Any, rows: int, padded: bool, types: bool) -> torch.Tensor:
    """What a model answers to rows of tokens, always the same."""
    generator = torch.Generator().manual_seed(1)
    token_ids = torch.randint(5, model.config.vocab_size, (rows, 24), generator=generator)
    lengths = torch.randint(2, 25, (rows, 1), generator=generator)
    mask = (torch.arange(24) < lengths).long() if padded else torch.ones_like(token_ids)
    type_ids = (torch.arange(24) > 12).long().expand(rows, 24) if types else None
    with torch.inference_mode():
        answer: torch.Tensor = call(model, token_ids, mask, type_ids).logits.float()
    return answer


@pytest.mark.parametrize("family", PACKED)
@pytest.mark.parametrize(
    ("rows", "padded", "options"),
    [(16, False, {}), (16, True, {}), (1, False, {}), (16, True, {"hidden_act": "relu"})],
    ids=["equal", "padded", "one", "relu"],
)
def test_packed_layers_compute_what_the_plain_ones_do(
    family: str, rows: int, padded: bool, options: dict[str, str], save: Callable[..., Path]
) -> None:
    folder = save(family, max_length=64, num_labels=3, **options)
    exact, plain, packed = (
        AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval()
        for dtype in (torch.float32, torch.bfloat16, torch.bfloat16)
    )
    assert pack_layers(packed) == can_pack()
    types = family in {"bert", "electra"}
    true, rough, ours = (logits(one, rows, padded, types) for one in (exact, plain, packed))
    assert (ours - true).abs().max() <= 2 * (rough - true).abs().max() + 0.01
    assert true.abs().max() > 10 * (ours - true).abs().max(), "the comparison means something"


def test_a_model_without_layers_stays_as_it_is(save: Callable[..., Path]) -> None:
    folder = save("bert", max_length=64, num_labels=3, num_hidden_layers=0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).eval()
    before = logits(model, 4, padded=True, types=False)
    assert not pack_layers(model)
    assert torch.equal(logits(model, 4, padded=True, types=False), before)


@pytest.mark.parametrize("family", [*PACKED, *PLAIN])
def test_the_model_says_which_engine_it_has(family: str, save: Callable[..., Path]) -> None:
    folder = str(save(family, max_length=64, num_labels=3))

    def engine(**options: Any) -> str:
        registry = ModelRegistry.load({"m": folder}, device="cpu", **options)
        return str(registry.engine().describe()["engine"])

    assert engine(dtype="bfloat16") == ("packed" if family in PACKED and can_pack() else "plain")
    assert engine(dtype="bfloat16", engine="plain") == "plain"
    assert engine(dtype="float32") == "plain"


def test_packing_changes_no_count_of_parameters(save: Callable[..., Path]) -> None:
    folder = save("bert", max_length=64, num_labels=3)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).eval()
    before = sum(parameter.numel() for parameter in model.parameters())
    assert pack_layers(model) == can_pack()
    assert sum(parameter.numel() for parameter in model.parameters()) == before
