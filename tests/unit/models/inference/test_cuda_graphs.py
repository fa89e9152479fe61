"""What a graph is recorded of, computed on the CPU: shapes, and rows that do not fill theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.inference import cuda_graphs
from models.inference.cuda_graphs import LENGTHS, MOST_TOKENS, ROWS, CudaGraphs
from models.inference.engine import Engine
from models.inference.registry import ModelRegistry
from models.inference.tasks import Segment

CPU = torch.device("cpu")
COVERED = ["bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"]


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Has a CPU compute at once what CUDA would record; the shapes of what it computed."""
    shapes = []

    def record(compute: Callable[[Tensor], Tensor], inputs: Tensor, _: Any) -> Any:
        assert compute(inputs).isfinite().all()

        def replay(others: Tensor) -> Tensor:
            assert others.shape == inputs.shape
            shapes.append((others.shape[0], others.shape[1] // 2))
            return compute(others)

        return replay

    monkeypatch.setattr(cuda_graphs, "record", record)
    monkeypatch.setattr(cuda_graphs, "memory_pool", lambda: None)
    return shapes


def load(folder: Path) -> Engine:
    return ModelRegistry.load({"m": str(folder)}, device="cpu", dtype="float32").engine()


def graphs_of(engine: Engine) -> CudaGraphs:
    return CudaGraphs(
        engine._replicas[CPU],
        CPU,
        window=engine.window,
        pad_id=engine._pad_id,
        takes_types=engine._takes_types,
    )


def segments(lengths: list[int], types: bool) -> list[Segment]:
    return [
        Segment(
            [5 + (row + place) % 30 for place in range(length)],
            [int(place > 2) for place in range(length)] if types and row % 2 else None,
            length,
        )
        for row, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("family", COVERED)
@torch.inference_mode()
def test_the_rows_are_those_of_the_engine(family: str, save: Callable[..., Path]) -> None:
    engine = load(save(family, max_length=64, num_labels=3))
    graphs = graphs_of(engine)
    for lengths in ([1], [16], [17], [engine.window], [9, 2, 24, 1, 9], [3] * 8, [40, 41]):
        batch = segments(lengths, types=family in {"bert", "electra"})
        answer = graphs(batch)
        assert answer is not None
        assert torch.allclose(answer, engine.forward(batch), rtol=1e-4, atol=1e-5), lengths


def test_a_batch_takes_the_smallest_shape_that_holds_it(
    recorded: list[tuple[int, ...]], save: Callable[..., Path]
) -> None:
    graphs = graphs_of(load(save("bert", max_length=100, num_labels=3)))
    for lengths in ([1], [16], [17, 2], [3, 3, 3], [65], [100] * 5):
        assert graphs(segments(lengths, types=False)) is not None
    assert recorded == [(1, 16), (1, 16), (2, 32), (4, 16), (1, 100), (8, 100)]


def test_what_is_larger_is_left_to_others(save: Callable[..., Path]) -> None:
    graphs = graphs_of(load(save("bert", max_length=512, num_labels=3)))
    assert graphs(segments([1] * (ROWS[-1] + 1), types=False)) is None
    assert graphs(segments([LENGTHS[-1]] * (MOST_TOKENS // LENGTHS[-1] + 1), types=False)) is None


def test_a_model_that_cannot_be_recorded_is_served_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, save: Callable[..., Path]
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graphs, "record", refuse)
    engine = load(save("bert", max_length=64, num_labels=3))
    engine._record(CPU)
    assert "no graphs on cpu: operation not permitted" in caplog.text
    assert engine.forward(segments([3, 4], types=False)).isfinite().all()


def test_an_engine_answers_small_batches_by_its_graphs(
    recorded: list[tuple[int, ...]], save: Callable[..., Path]
) -> None:
    engine = load(save("bert", max_length=64, num_labels=3))
    batch = segments([3, 4], types=False)
    expected = engine.forward(batch)
    engine._record(CPU)
    assert torch.allclose(engine.forward(batch), expected, rtol=1e-4, atol=1e-5)
    assert engine.forward(segments([3] * 9, types=False)).shape == (9, 3)
    assert recorded == [(2, 16)]
