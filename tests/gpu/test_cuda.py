"""On CUDA the same comes out as on the CPU in float32."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from app.cli.documents import SAMPLES
from models.inference.device import choose_devices, is_out_of_memory, to_host
from models.inference.pool import InferencePool
from models.inference.registry import ModelRegistry
from models.inference.tasks import Document, Prediction, Segment

COVERED = ["bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"]
PLAIN = ["deberta-v2", "modernbert", "mpnet"]
SEGMENTS = [Segment([7] * length, None, length) for length in (9, 2, 24, 1, 9)]


def rows(folder: Path, device: str, dtype: str, engine: Any = "auto") -> tuple[str, torch.Tensor]:
    registry = ModelRegistry.load({"m": str(folder)}, device=device, dtype=dtype, engine=engine)
    model = registry.engine()
    return str(model.describe()["engine"]), model.forward(SEGMENTS).cpu()


@pytest.mark.parametrize("family", [*COVERED, *PLAIN])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_rows_are_those_of_the_cpu(family: str, dtype: str, save: Callable[..., Path]) -> None:
    # Attention for rows of various lengths wants heads of a multiple of eight.
    folder = save(family, max_length=64, num_labels=3, hidden_size=64, num_attention_heads=4)
    _, exact = rows(folder, "cpu", "float32", "plain")
    _, rough = rows(folder, "cuda", dtype, "plain")
    engine, ours = rows(folder, "cuda", dtype)
    assert engine == ("padding-free" if family in COVERED and dtype != "float32" else "plain")
    assert (ours - exact).abs().max() <= 2 * (rough - exact).abs().max() + 0.01


@pytest.mark.parametrize("family", COVERED)
def test_small_batches_are_recorded(family: str, save: Callable[..., Path]) -> None:
    folder = save(family, max_length=64, num_labels=3, hidden_size=64, num_attention_heads=4)
    registry = ModelRegistry.load({"m": str(folder)}, device="cuda", dtype="bfloat16")
    engine = registry.engine()
    batches = [SEGMENTS[start:end] for start in range(5) for end in range(start + 1, 6)]
    expected = [engine.forward(batch).cpu() for batch in batches]
    engine.warm_up()
    [graphs] = engine._graphs.values()
    for batch, rows in zip(batches, expected, strict=True):
        answer = graphs(batch)
        assert answer is not None
        assert torch.allclose(answer.cpu(), rows, atol=0.02)
        assert torch.equal(engine.forward(batch).cpu(), answer.cpu())


def test_a_gpu_is_taken_where_there_is_one() -> None:
    assert choose_devices("auto") == [torch.device("cuda:0")]


def test_what_has_been_launched_since_is_not_waited_for() -> None:
    device = torch.device("cuda:0")
    wait = to_host(torch.ones(4, 4, device=device))
    matrix = torch.randn(8192, 8192, device=device)
    for _ in range(50):
        matrix = matrix @ matrix
    later = torch.cuda.Event()
    later.record()
    assert torch.equal(wait(), torch.ones(4, 4))
    assert not later.query(), "the device is still at what came later"


def test_the_samples_are_answered_as_on_the_cpu() -> None:
    texts = [json.loads(line)["text"] for line in SAMPLES.read_text().splitlines()]
    exact = ModelRegistry.load({"m": "builtin"}, device="cpu", dtype="float32").engine()
    expected = exact.predict([Document(text) for text in texts])

    async def main() -> list[Prediction]:
        async with InferencePool(ModelRegistry.load({"m": "builtin"}, device="cuda")) as pool:
            return await asyncio.gather(*(pool.predict(Document(text)) for text in texts))

    for answer, one in zip(asyncio.run(main()), expected, strict=True):
        assert isinstance(one, Prediction)
        assert answer.label == one.label
        assert answer.score == pytest.approx(one.score, abs=0.02)


def test_running_out_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, device="cuda")
    assert is_out_of_memory(caught.value)
