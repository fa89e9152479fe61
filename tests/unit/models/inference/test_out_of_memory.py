"""A real model whose batches need memory that the machine does not have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.errors import OutOfMemory
from models.inference.checkpoint import load_checkpoint
from models.inference.engine import Engine
from models.inference.pool import InferencePool
from models.inference.registry import ModelRegistry
from models.inference.tasks import Document, Prediction

CPU = torch.device("cpu")
MORE_THAN_ANY_MACHINE_HAS = 2**60


class Greedy(nn.Module):
    """A network that asks for too much where a batch is large, or where a word is in it."""

    def __init__(self, network: nn.Module, *, most_rows: int, token: int) -> None:
        super().__init__()
        self.network = network
        self.most_rows = most_rows
        self.token = token
        self.computed: list[int] = []
        """Rows of the batches for which there was memory."""

    def forward(self, token_ids: Tensor, mask: Tensor, type_ids: Tensor | None) -> Tensor:
        if len(token_ids) > self.most_rows or bool((token_ids == self.token).any()):
            torch.empty(MORE_THAN_ANY_MACHINE_HAS, dtype=torch.uint8)
        self.computed.append(len(token_ids))
        outputs: Tensor = self.network(token_ids, mask, type_ids)
        return outputs


def test_what_does_not_fit_is_split_and_what_does_not_fit_alone_is_answered(
    save: Callable[..., Path],
) -> None:
    folder = str(save(num_labels=3))
    checkpoint = load_checkpoint(folder)
    whole = Engine(checkpoint, {CPU: checkpoint.network}, name="m", path=folder)
    texts = ["the old", "council", "bridge", "spring", "voted", "Tuesday"]
    texts += [f"{text} to close" for text in texts] + ["the old " * 60, "the voted " * 60]
    culprits = {"bridge", "bridge to close"}
    expected = dict(zip(texts, whole.predict([Document(text) for text in texts]), strict=True))
    (bridge,) = whole.encode([Document("bridge")])
    assert not isinstance(bridge, Exception)
    token = bridge.segments[0].token_ids[1]
    network = Greedy(checkpoint.network, most_rows=2, token=token)
    registry = ModelRegistry({"m": Engine(checkpoint, {CPU: network}, name="m", path=folder)})

    async def everything() -> AsyncIterator[Sequence[str]]:
        yield texts

    async def main() -> dict[str, Prediction | Exception]:
        found: dict[str, Prediction | Exception] = {}
        async with InferencePool(registry) as pool:
            async for outcomes in pool.map(everything(), Document):
                assert not {text for text, _ in outcomes} & set(found)
                found |= outcomes
        return found

    found = asyncio.run(main())
    assert set(found) == set(texts)
    for text, outcome in found.items():
        if text in culprits:
            assert isinstance(outcome, OutOfMemory)
            assert "can't allocate memory" in str(outcome) or "not enough memory" in str(outcome)
        else:
            wanted = expected[text]
            assert isinstance(outcome, Prediction)
            assert isinstance(wanted, Prediction)
            assert outcome.label == wanted.label
            assert outcome.segments == wanted.segments
            assert outcome.scores == pytest.approx(wanted.scores, abs=1e-5)
    assert max(network.computed) == 2
