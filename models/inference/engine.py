"""One model, ready to predict: encode, forward, decode."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.errors import (
    BertstreamError,
    InferenceError,
    InferenceFailed,
    ModelLoadError,
    OutOfMemory,
    one_line,
)
from models.inference.batching import pack, rectangle
from models.inference.checkpoint import Checkpoint
from models.inference.cuda_graphs import CudaGraphs
from models.inference.decoding import Decoder
from models.inference.device import (
    is_out_of_memory,
    most_tokens,
    release_memory,
    share_cpu,
    to_device,
)
from models.inference.document_encoder import DocumentEncoder
from models.inference.padding_free import Layout
from models.inference.tasks import (
    Aggregation,
    Document,
    EncodedDocument,
    Prediction,
    Segment,
    Task,
)

log = logging.getLogger(__name__)

SEGMENT_OVERLAP = 32
"""Tokens that two neighbouring segments of a long document share."""


class Engine:
    """A model with a replica on each of its devices.

    The three stages may run in different threads at once; `forward` is meant for one thread a
    device. `predict` runs all three, for use without a pool.

    Args:
        name: name in the registry, which its predictions carry.
        path: what the user wrote to get this model.
        layers: what computes it: `plain`, transformers' own; `padding-free` (see `padding_free`);
            `fused`, without padding and fused (see `cpu_layers`).
        checkpoint: its network is taken over by one of the replicas.
        replicas: the checkpoint's network in evaluation mode by device, at least one.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        replicas: Mapping[torch.device, nn.Module],
        *,
        name: str,
        path: str,
        layers: str = "plain",
        aggregation: Aggregation = "mean",
        segment_overlap: int = SEGMENT_OVERLAP,
    ) -> None:
        self.name = name
        self.devices = tuple(replicas)
        self.padding_free = layers != "plain"
        """Whether a device batch costs its tokens alone, and no padding."""
        self._replicas = dict(replicas)
        self._graphs: dict[torch.device, CudaGraphs] = {}
        self._pad_id = checkpoint.tokenizer.pad_id
        self._takes_types = checkpoint.takes_types
        self._encoder: DocumentEncoder | None = DocumentEncoder(
            checkpoint.tokenizer,
            window=checkpoint.window,
            vocabulary=checkpoint.vocabulary,
            overlap=segment_overlap,
            prompt=checkpoint.prompt,
            takes_pairs=checkpoint.takes_pairs,
            takes_types=checkpoint.takes_types,
        )
        self._head = checkpoint.head
        self._decoder = Decoder(
            checkpoint.task,
            checkpoint.labels,
            aggregation,
            checkpoint.threshold,
            checkpoint.normalizes,
        )
        embeds = checkpoint.task is Task.EMBEDDING
        self._description: dict[str, Any] = {
            "name": name,
            "version": checkpoint.version,
            "task": str(checkpoint.task),
            "takes_pairs": checkpoint.takes_pairs,
            "labels": None if embeds else list(checkpoint.labels),
            "family": checkpoint.family,
            "parameters": checkpoint.parameters,
            "window": checkpoint.window,
            "aggregation": _aggregation(checkpoint, aggregation),
            "device": ",".join(map(str, self.devices)),
            "dtype": str(checkpoint.dtype).removeprefix("torch."),
            "engine": layers,
            "path": path,
        }

    @property
    def version(self) -> str:
        """First 12 hex digits of SHA-256 over weights, configuration and tokenizer."""
        return str(self._description["version"])

    @property
    def window(self) -> int:
        """Most tokens of a segment, special tokens included."""
        return int(self._description["window"])

    def describe(self) -> dict[str, Any]:
        """What the status page shows of the model; a fresh dictionary."""
        return dict(self._description)

    def encode(self, documents: Sequence[Document]) -> list[EncodedDocument | InferenceError]:
        """Tokenize and segment documents, on the CPU and largely outside the GIL.

        Returns:
            One for each document, in order; its error for one that this model cannot take.
        """
        if self._encoder is None:
            raise self._closed()
        return self._encoder.encode(documents)

    def forward(self, segments: Sequence[Segment], device: torch.device | None = None) -> Tensor:
        """Compute one device batch.

        Args:
            device: one of the model's; None: the first.

        Returns:
            Logits or embeddings (n_segments, width) in float32, on the device, which may still be
            computing them.

        Raises:
            Exception: whatever the device raises; see `is_out_of_memory`.
        """
        device = self.devices[0] if device is None else device
        network = self._replicas.get(device)
        if network is None:
            raise self._closed()
        if device in self._graphs:
            with torch.inference_mode():
                recorded = self._graphs[device](segments)
            if recorded is not None:
                return recorded
        place = partial(to_device, device=next(network.parameters()).device)
        token_ids, mask, type_ids = rectangle(segments, self._pad_id)
        arguments: list[Any] = [
            place(token_ids),
            place(mask.astype(np.int64)),
            None if type_ids is None else place(type_ids),
        ]
        if self.padding_free:
            arguments.append(Layout.of(mask, place))
        with torch.inference_mode():
            rows: Tensor = network(*arguments)
        return rows

    def decode(self, encoded: EncodedDocument, rows: Tensor, inference_ms: float) -> Prediction:
        """Turn what `forward` gave for the segments of one document into its prediction.

        Args:
            rows: (n_segments, width), in the order of the segments.
            inference_ms: time of the device batch that held the last segment.

        Raises:
            InferenceFailed: the model gave numbers that are not finite.
        """
        rows = rows.cpu()
        weights = [segment.weight for segment in encoded.segments]
        if self._head is not None:
            with torch.inference_mode():
                rows = self._head.classify_documents(
                    rows, torch.zeros(len(rows), dtype=torch.int64), 1
                )
            weights = [1]
        numbers = rows.numpy()
        if not np.isfinite(numbers).all():
            raise InferenceFailed("the model gave numbers that are not finite; try DTYPE=float32")
        document = encoded.document
        answer = self._decoder.decode(numbers, weights, document.top_k)
        return Prediction(
            model=self.name,
            model_version=self._description["version"],
            task=(
                self._description["task"] if document.text_pair is None else str(Task.SENTENCE_PAIR)
            ),
            label=answer.get("label"),
            score=answer.get("score"),
            scores=answer.get("scores"),
            labels=answer.get("labels"),
            embedding=answer.get("embedding"),
            segments=len(encoded.segments),
            tokens=encoded.tokens,
            inference_ms=inference_ms,
        )

    def predict(
        self,
        documents: Sequence[Document],
        *,
        batch_size: int = 256,
        batch_tokens: int = 16384,
        threads: int | None = None,
    ) -> list[Prediction | InferenceError]:
        """Predict documents on the first device, in batches by length.

        A batch that fails is computed again in halves until the culprit stands alone.

        Args:
            batch_size: most segments of a device batch.
            batch_tokens: most tokens of a device batch, with what padding costs; a CPU is given
                less.
            threads: of each batch on a CPU, which computes several at once; see `share_cpu`.

        Returns:
            One for each document, in order; its error for one that cannot be predicted.
        """
        outcomes: list[Any] = list(self.encode(documents))
        owners = [
            (place, number)
            for place, encoded in enumerate(outcomes)
            if isinstance(encoded, EncodedDocument)
            for number in range(len(encoded.segments))
        ]
        segments = [outcomes[place].segments[number] for place, number in owners]
        rows: list[tuple[Tensor, float] | InferenceError] = [InferenceFailed()] * len(segments)
        lengths = [len(segment) for segment in segments]
        batch_tokens = most_tokens(self.devices[0], batch_tokens)
        batches = pack(
            lengths,
            max_rows=batch_size,
            max_tokens=batch_tokens,
            padding_free=self.padding_free,
        )
        computed = self._compute(
            [[segments[number] for number in batch] for batch in batches], threads
        )
        for number, row in zip(chain(*batches), chain(*computed), strict=True):
            rows[number] = row
        results = iter(rows)
        for place, encoded in enumerate(outcomes):
            if isinstance(encoded, EncodedDocument):
                own = [next(results) for _ in encoded.segments]
                outcomes[place] = self._outcome(encoded, own)
        return outcomes

    def warm_up(self) -> None:
        """Compute something on every device, so that the first document does not wait for it.

        On CUDA small batches are recorded as graphs, where the layers run without padding.

        Raises:
            ModelLoadError: the model computes nothing there, in this precision.
        """
        for device in self.devices:
            for length in (16, 256):
                segment = Segment([self._pad_id] * min(length, self.window), None, 1)
                try:
                    self.forward([segment], device).cpu()
                except RuntimeError as error:
                    raise ModelLoadError(
                        f"model {self.name} computes nothing on {device} in "
                        f"{self._description['dtype']}: {one_line(error)}"
                    ) from error
            if self.padding_free and device.type == "cuda":
                self._record(device)

    def close(self) -> None:
        """Give the memory back, of the devices and of the machine; nothing works afterwards."""
        self._graphs.clear()
        self._replicas.clear()
        self._encoder = None
        for device in self.devices:
            release_memory(device)

    def _record(self, device: torch.device) -> None:
        """Record small batches on a device; without graphs they are computed like any other."""
        try:
            self._graphs[device] = CudaGraphs(
                self._replicas[device],
                device,
                window=self.window,
                pad_id=self._pad_id,
                takes_types=self._takes_types,
            )
        except RuntimeError as error:
            log.warning("model=%s no graphs on %s: %s", self.name, device, one_line(error))

    def _compute(
        self, batches: list[list[Segment]], threads: int | None
    ) -> list[list[tuple[Tensor, float] | InferenceError]]:
        """The rows of each batch, several batches at once on a CPU; see `_rows`."""
        if self.devices[0].type != "cpu" or len(batches) <= 1:
            return [self._rows(batch) for batch in batches]
        lanes, threads = share_cpu(threads)
        with ThreadPoolExecutor(lanes, "lane", torch.set_num_threads, (threads,)) as executor:
            return list(executor.map(self._rows, batches))

    def _rows(self, segments: list[Segment]) -> list[tuple[Tensor, float] | InferenceError]:
        """The row of each segment on the CPU with its batch's time in ms, or why there is none."""
        started = time.perf_counter()
        try:
            rows = self.forward(segments).cpu()
        except BertstreamError:
            raise
        except Exception as error:
            if len(segments) == 1:
                failure = OutOfMemory if is_out_of_memory(error) else InferenceFailed
                return [failure(one_line(error))]
            half = len(segments) // 2
        else:
            inference_ms = (time.perf_counter() - started) * 1000
            return [(row, inference_ms) for row in rows]
        return self._rows(segments[:half]) + self._rows(segments[half:])

    def _outcome(
        self, encoded: EncodedDocument, rows: list[tuple[Tensor, float] | InferenceError]
    ) -> Prediction | InferenceError:
        computed = []
        for row in rows:
            if isinstance(row, InferenceError):
                return row
            computed.append(row)
        try:
            return self.decode(encoded, torch.stack([row for row, _ in computed]), computed[-1][1])
        except InferenceError as error:
            return error

    def _closed(self) -> BertstreamError:
        return BertstreamError(f"the model {self.name!r} is closed")


def _aggregation(checkpoint: Checkpoint, asked: Aggregation) -> str:
    """How the segments of a long document become one prediction."""
    if checkpoint.head is not None:
        return checkpoint.head.config.segments
    return "mean" if checkpoint.task is Task.EMBEDDING else asked
