"""Fused layers compute what the model's own do, within the precision of bfloat16."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from models.inference.cpu_layers import can_fuse, fuse_layers
from models.inference.device import to_device
from models.inference.padding_free import Layout, leave_out_padding
from models.inference.registry import ModelRegistry
from models.inference.transformer import call

FUSED = ["bert", "camembert", "electra", "roberta", "xlm-roberta"]


def test_layers_are_fused_where_the_cpu_has_instructions_for_bfloat16() -> None:
    flags = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    assert can_fuse() == ("avx512_bf16" in flags or "amx_bf16" in flags)


def logits(model: Any, rows: int, *, types: bool, padding: bool = True) -> torch.Tensor:
    """What a model answers to rows of tokens, always the same."""
    generator = torch.Generator().manual_seed(1)
    token_ids = torch.randint(5, model.config.vocab_size, (rows, 24), generator=generator)
    lengths = torch.randint(2, 25, (rows, 1), generator=generator)
    lengths[0] = 24
    mask = torch.arange(24) < lengths
    type_ids = (torch.arange(24) > 12).long().expand(rows, 24) if types else None
    layout = None
    if not padding:
        layout = Layout.of(np.asarray(mask), partial(to_device, device=torch.device("cpu")))
    with torch.inference_mode():
        answer: torch.Tensor = call(model, token_ids, mask.long(), type_ids, layout).logits.float()
    return answer


@pytest.mark.parametrize("family", FUSED)
@pytest.mark.parametrize(
    ("rows", "options"), [(16, {}), (1, {}), (16, {"hidden_act": "relu"})], ids=["16", "1", "relu"]
)
def test_fused_layers_compute_what_the_plain_ones_do(
    family: str, rows: int, options: dict[str, str], save: Callable[..., Path]
) -> None:
    folder = save(family, max_length=64, num_labels=3, **options)
    exact, plain, fused = (
        AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval()
        for dtype in (torch.float32, torch.bfloat16, torch.bfloat16)
    )
    assert leave_out_padding(fused)
    assert fuse_layers(fused) == can_fuse()
    types = family in {"bert", "electra"}
    true, rough = (logits(one, rows, types=types) for one in (exact, plain))
    ours = logits(fused, rows, types=types, padding=False)
    assert (ours - true).abs().max() <= 2 * (rough - true).abs().max() + 0.01
    assert true.abs().max() > 10 * (ours - true).abs().max(), "the comparison means something"


def test_a_model_without_layers_stays_as_it_is(save: Callable[..., Path]) -> None:
    folder = save("bert", max_length=64, num_labels=3, num_hidden_layers=0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).eval()
    before = logits(model, 4, types=False)
    assert not fuse_layers(model)
    assert torch.equal(logits(model, 4, types=False), before)


@pytest.mark.parametrize("family", ["bert", "distilbert", "mpnet"])
def test_the_model_says_which_engine_it_has(family: str, save: Callable[..., Path]) -> None:
    folder = str(save(family, max_length=64, num_labels=3))

    def engine(**options: Any) -> str:
        registry = ModelRegistry.load({"m": folder}, device="cpu", **options)
        return str(registry.engine().describe()["engine"])

    without = "plain" if family == "mpnet" else "padding-free"
    assert engine(dtype="bfloat16") == ("fused" if family in FUSED and can_fuse() else without)
    assert engine(dtype="bfloat16", engine="plain") == "plain"


def test_fusing_changes_no_count_of_parameters(save: Callable[..., Path]) -> None:
    folder = save("bert", max_length=64, num_labels=3)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).eval()
    before = sum(parameter.numel() for parameter in model.parameters())
    assert leave_out_padding(model)
    assert fuse_layers(model) == can_fuse()
    assert sum(parameter.numel() for parameter in model.parameters()) == before
