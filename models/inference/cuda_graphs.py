"""Small batches on CUDA, as graphs that were recorded when the model was loaded.

The kernels of a small batch take less time than launching them one by one; a graph launches all of
them at once. It is of one shape, so that a batch is laid into the smallest one that holds it. What
a row leaves of its place is a row of its own for layers without padding: no token attends to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.inference.device import to_device
from models.inference.padding_free import Layout
from models.inference.tasks import Segment

ROWS = (1, 2, 4, 8)
LENGTHS = (16, 32, 64, 128, 256, 512)
MOST_TOKENS = 1024
"""Of a shape. The kernels of larger ones take longer than their launches."""
RUNS_BEFORE = 3
"""Of a network before it is recorded, so that libraries have allocated what they keep."""
MOST_DIFFERENCE = 0.01
"""Of what a graph gives, from what the same kernels give when launched one by one."""


class CudaGraphs:
    """The graphs of a network on a device, by shape.

    Args:
        network: in evaluation mode on the device, without padding (see `padding_free`). Its weights
            stay where they are as long as the graphs are made use of.
        window: most tokens of a row.
        takes_types: whether the network tells types of tokens apart.

    Raises:
        RuntimeError: it cannot be recorded, has no memory for it, or gives something else then.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        *,
        window: int,
        pad_id: int,
        takes_types: bool,
    ) -> None:
        self._device = device
        self._pad_id = pad_id
        longest = min(window, LENGTHS[-1])
        lengths = [*(length for length in LENGTHS if length < longest), longest]
        shapes = [
            (rows, length) for rows in ROWS for length in lengths if rows * length <= MOST_TOKENS
        ]
        self._graphs: dict[tuple[int, int], Callable[[Tensor], Tensor]] = {}
        pool = memory_pool()
        # The largest first: the others find room in its memory.
        for rows, length in sorted(shapes, key=lambda shape: -shape[0] * shape[1]):
            compute = partial(_compute, network, takes_types=takes_types)
            self._graphs[rows, length] = record(compute, self._probe(rows, length), pool)

    def __call__(self, segments: Sequence[Segment]) -> Tensor | None:
        """Compute a batch.

        Returns:
            Rows (n_segments, width) on the device, which may still be computing them; None for a
            batch that is larger than any shape.
        """
        shape = self._shape(len(segments), max(map(len, segments)))
        if shape is None:
            return None
        inputs = to_device(_inputs(segments, *shape, self._pad_id), self._device)
        return self._graphs[shape](inputs)[: len(segments)]

    def _shape(self, rows: int, length: int) -> tuple[int, int] | None:
        """The smallest shape that holds so many rows of this length."""
        fitting = [shape for shape in self._graphs if shape[0] >= rows and shape[1] >= length]
        return min(fitting, key=lambda shape: shape[0] * shape[1], default=None)

    def _probe(self, rows: int, length: int) -> Tensor:
        """Inputs of a shape whose rows are full, half empty, and all but empty."""
        lengths = [max(1, length >> (row % 3) * 2) for row in range(rows)]
        segments = [Segment([self._pad_id] * length, None, 1) for length in lengths]
        return to_device(_inputs(segments, rows, length, self._pad_id), self._device)


def memory_pool() -> Any:
    """Memory that graphs share, of which one runs at a time."""
    return torch.cuda.graph_pool_handle()


def record(
    compute: Callable[[Tensor], Tensor], inputs: Tensor, pool: Any
) -> Callable[[Tensor], Tensor]:
    """Record what is computed of inputs on a device.

    Returns:
        Computes the same of other inputs of this shape.

    Raises:
        RuntimeError: it cannot be recorded, has no memory for it, or gives something else then.
    """
    inputs = inputs.clone()
    with torch.cuda.device(inputs.device), torch.inference_mode():
        current = torch.cuda.current_stream()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(RUNS_BEFORE):
                expected = compute(inputs)
        current.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            outputs = compute(inputs)
        graph.replay()
        off = torch.linalg.vector_norm(outputs - expected) / torch.linalg.vector_norm(expected)
        if not off <= MOST_DIFFERENCE:
            raise RuntimeError(f"a graph of it is off by {float(off):.2g}")

    def replay(others: Tensor) -> Tensor:
        inputs.copy_(others)
        graph.replay()
        return outputs.clone()

    return replay


def _inputs(
    segments: Sequence[Segment], rows: int, length: int, pad_id: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Segments as (rows, 1 + 2 * length): their lengths, token ids and types, in one copy."""
    inputs = np.zeros((rows, 1 + 2 * length), np.int64)
    inputs[:, 1 : 1 + length] = pad_id
    for row, segment in zip(inputs, segments, strict=False):
        row[0] = len(segment)
        row[1 : 1 + len(segment)] = segment.token_ids
        if segment.type_ids is not None:
            row[1 + length : 1 + length + len(segment)] = segment.type_ids
    return inputs


def _compute(network: nn.Module, inputs: Tensor, *, takes_types: bool) -> Tensor:
    """What a network gives for `_inputs`, by operations that can be recorded."""
    rows, length = inputs.shape[0], inputs.shape[1] // 2
    lengths, token_ids, type_ids = torch.split(inputs, [1, length, length], dim=1)
    places = torch.arange(rows * length, device=inputs.device)
    mask = (places[:length] < lengths).long()  # (rows, length)
    first = places[::length].unsqueeze(1)  # (rows, 1)
    ends = torch.cat([first + lengths, first + length], dim=1).flatten()  # (2 * rows,)
    layout = Layout(length, places, F.pad(ends, (1, 0)).int())
    outputs: Tensor = network(token_ids, mask, type_ids if takes_types else None, layout)
    return outputs
