"""Without padding the layers compute what they do with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification

from models.inference.device import to_device
from models.inference.padding_free import Layout, attends_within_rows, leave_out_padding
from models.inference.registry import Kind, ModelRegistry
from models.inference.transformer import call

COVERED = ["bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"]
PLAIN = ["convbert", "deberta-v2", "fnet", "modernbert", "mpnet"]
CPU = torch.device("cpu")


def layout_of(lengths: list[int]) -> tuple[np.ndarray[Any, Any], Layout]:
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    return mask, Layout.of(mask, partial(to_device, device=CPU))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12))
def test_a_layout_finds_every_token_once(lengths: list[int]) -> None:
    mask, layout = layout_of(lengths)
    assert layout.longest == max(lengths)
    assert layout.places.tolist() == np.flatnonzero(mask).tolist()
    assert layout.starts.tolist() == [0, *np.cumsum(lengths).tolist()]
    assert layout.starts.dtype == torch.int32, "as the kernel of CUDA wants it"
    covered = chain.from_iterable(range(one.start, one.stop) for one, _, _ in layout.runs)
    assert list(covered) == list(range(sum(lengths)))
    each = chain.from_iterable([length] * count for _, count, length in layout.runs)
    assert list(each) == lengths


def outputs(model: Any, lengths: list[int], *, padding: bool, types: bool) -> Tensor:
    """What a model gives for rows of tokens, always the same; some of them look like padding."""
    mask, layout = layout_of(lengths)
    generator = torch.Generator().manual_seed(1)
    token_ids = torch.randint(0, model.config.vocab_size, mask.shape, generator=generator)
    pad_id = model.config.pad_token_id
    token_ids[0, lengths[0] // 2] = pad_id
    token_ids[torch.from_numpy(~mask)] = pad_id
    type_ids = (torch.arange(mask.shape[1]) > 2).long().expand(mask.shape) if types else None
    with torch.inference_mode():
        answer = call(
            model, token_ids, torch.from_numpy(mask).long(), type_ids, None if padding else layout
        )
    if "logits" in answer:
        logits: Tensor = answer.logits
        return logits
    hidden: Tensor = answer.last_hidden_state
    return hidden[torch.from_numpy(mask)]


@pytest.mark.parametrize("family", COVERED)
@pytest.mark.parametrize("auto", [AutoModel, AutoModelForSequenceClassification])
def test_the_same_comes_out_as_with_padding(
    family: str, auto: Any, save: Callable[..., Path]
) -> None:
    model = auto.from_pretrained(save(family, max_length=64, num_labels=3)).eval()
    types = family in {"bert", "electra"}
    cases = ([9, 2, 9, 24, 1], [7], [5, 5, 5])
    padded = [outputs(model, lengths, padding=True, types=types) for lengths in cases]
    assert leave_out_padding(model)
    for lengths, expected in zip(cases, padded, strict=True):
        answer = outputs(model, lengths, padding=False, types=types)
        assert torch.allclose(answer, expected, rtol=1e-4, atol=1e-5), lengths


@pytest.mark.parametrize("family", [*COVERED, *PLAIN])
def test_the_model_says_whether_it_pays_for_padding(family: str, save: Callable[..., Path]) -> None:
    folder = str(save(family, max_length=64, num_labels=3))

    kinds: tuple[Kind, ...] = ("auto", "plain")
    for kind in kinds:
        registry = ModelRegistry.load({"m": folder}, device="cpu", dtype="float32", engine=kind)
        engine = registry.engine()
        without = kind == "auto" and family in COVERED
        assert engine.describe()["engine"] == ("padding-free" if without else "plain")
        assert engine.padding_free == without


@pytest.mark.parametrize(
    "options", [{"chunk_size_feed_forward": 2}, {"attn_implementation": "eager"}]
)
def test_layers_that_need_their_rectangle_keep_it(
    options: dict[str, Any], save: Callable[..., Path]
) -> None:
    folder = save("bert", max_length=64, num_labels=3)
    model = AutoModelForSequenceClassification.from_pretrained(folder, **options).eval()
    assert not leave_out_padding(model)
    assert outputs(model, [8, 2], padding=True, types=False).isfinite().all()


def test_devices_attend_without_padding_where_they_have_a_kernel() -> None:
    assert attends_within_rows(CPU, torch.float32)
    assert not attends_within_rows(torch.device("cuda:0"), torch.float32)
    assert not attends_within_rows(torch.device("mps"), torch.float16)
