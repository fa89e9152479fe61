"""A model as one folder for other runtimes: ONNX, its tokenizer, and what serving must know of it.

The network is exported as transformers computes it, and the file is run by ONNX Runtime beside
torch before the folder gets its name.
"""

from __future__ import annotations

import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import transformers
from numpy.typing import NDArray
from onnxscript.ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

from models.errors import BertstreamError, one_line, shortened
from models.folders import check_output, new_folder
from models.inference.agreement import PARAGRAPH
from models.inference.batching import rectangle
from models.inference.checkpoint import Checkpoint, load_checkpoint
from models.inference.engine import SEGMENT_OVERLAP, Engine
from models.inference.sentence_modules import read_limits
from models.inference.tasks import Aggregation, Segment, Task
from models.inference.transformer import PADDING_DISTURBS, Trust
from models.quiet import quiet_transformers
from models.text.tokenizer import Tokenizer

Floats = NDArray[np.float32]
Batches = list[list[Segment]]

MODEL_NAME = "model.onnx"
RECORD_NAME = "export.json"
OPSET = 20
"""torch's own default; ONNX Runtime reads it from 1.18 on."""
OPSETS = range(18, 24)
"""What torch's exporter writes; asked for a lower one it would write 18 without a word."""
MOST_INLINE_BYTES = 1_500_000_000
"""Weights beyond this go into a file beside the graph: a message of protobuf ends at 2 GiB."""
LONGEST_CHECKED = 4096
"""Tokens: at that length the attention of twelve heads already takes 0.8 GB a layer."""
LONGEST_PADDED = 512
"""Tokens of the checked batch in which short rows are padded most."""
TOLERANCE = 1e-4
"""Largest difference from torch over the largest number that torch gives. Other kernels add in
another order: up to 1e-5 was found over thirty families with random weights. A graph that computes
something else is off by far more, and bfloat16, in which models are served, by 4e-3."""
SMALLEST_SCALE = 0.01
"""Numbers are not compared more finely than this allows: what cancels out to nearly zero keeps the
rounding errors, some 1e-7, of what it was computed from."""
TRACED_LENGTHS = (7, 4, 2)
"""Of the rows with which the network is exported; none of the checked batches is like these."""

CLASSIFIERS = frozenset({Task.TEXT_CLASSIFICATION, Task.MULTI_LABEL_CLASSIFICATION})
AGGREGATIONS: dict[Aggregation, str] = {
    "mean": "the logits of the segments are averaged, weighted by their tokens",
    "max": "the most confident segment counts, or the highest logit where labels are independent",
    "first": "the first segment counts",
}


@dataclass(frozen=True, slots=True)
class Check:
    """What came of running the exported file beside torch."""

    inputs: int
    longest: int
    """Tokens of the longest input."""
    difference: float
    """Largest absolute difference over the largest number that torch gave."""

    def facts(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "inputs": self.inputs,
            "longest": self.longest,
            "difference": self.difference,
            "tolerance": TOLERANCE,
            "onnxruntime": version("onnxruntime"),
        }


def export_onnx(
    spec: str,
    folder: Path,
    *,
    opset: int = OPSET,
    aggregation: Aggregation = "mean",
    segment_overlap: int = SEGMENT_OVERLAP,
    trust: Trust = Trust(),  # noqa: B008 - frozen
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Write a model for other runtimes, as a whole folder or not at all.

    `model.onnx` computes in float32. It takes `input_ids`, `attention_mask` and, where the model
    has a use for them, `token_type_ids`, each int64 (batch, length), padded on the right; it gives
    `logits` (batch, n_labels) or `embedding` (batch, width), one row a segment. Beside it lie the
    tokenizer, which neither truncates nor pads, and `export.json`.

    Args:
        spec: `builtin`, a checkpoint folder, or a model id of the hub with optional `@revision`.
        folder: a new one.
        opset: one of `OPSETS`.
        aggregation: how bertstream joins the segments of a long document; told in the record.
        segment_overlap: tokens that two of them share; told in the record.
        progress: takes a line at each step.

    Returns:
        The record, as `export.json` has it.

    Raises:
        ModelLoadError: the model cannot be found or read.
        BertstreamError: the model cannot be exported, ONNX Runtime computes something else from
            the file, the folder is in use, or the disk refuses. No folder is left then.
    """
    report = progress or (lambda _: None)
    check_output(folder)
    checkpoint = load_checkpoint(spec, trust=trust, progress=report)
    try:
        _refuse_special(checkpoint)
        report(f"{spec}: exporting")
        program = _export(checkpoint, opset)
        with new_folder(folder) as partial:
            _save(program, checkpoint, partial / MODEL_NAME)
            del program  # it holds the weights as well
            report(f"{spec}: checking")
            check = check_file(checkpoint, partial / MODEL_NAME)
            _save_tokenizer(checkpoint, trust, partial)
            record = {
                **_describe(checkpoint, spec, aggregation, segment_overlap),
                "opset": opset,
                "files": {path.name: path.stat().st_size for path in sorted(partial.iterdir())},
                "check": check.facts(),
                **{name: version(name) for name in ("bertstream", "torch", "onnx", "onnxscript")},
            }
            text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
            (partial / RECORD_NAME).write_text(text, encoding="utf-8")
    except BertstreamError as error:
        raise BertstreamError(f"{spec}: {error}") from error.__cause__
    return record


def _refuse_special(checkpoint: Checkpoint) -> None:
    """Refuse models whose answer does not follow from one padded row of tokens."""
    family = checkpoint.family
    if family in PADDING_DISTURBS:
        raise BertstreamError(
            f"{family} models are not exported: padding changes what they compute, and other "
            "runtimes pad"
        )
    if checkpoint.head is not None:
        raise BertstreamError(
            f"this {family} model is not exported: its head stands on all segments of a document "
            "at once, and the file would take them one by one; train it with averaged segments"
        )


class _Named(nn.Module):
    """A network whose inputs have the names that other runtimes expect."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Token ids and mask (batch, length) to logits or embeddings (batch, width)."""
        rows: Tensor = self.network(input_ids, attention_mask, token_type_ids)
        return rows


def _export(checkpoint: Checkpoint, opset: int) -> torch.onnx.ONNXProgram:
    """Have torch write the graph, with open lengths and batch sizes.

    Raises:
        BertstreamError: it cannot.
    """
    inputs = _inputs(checkpoint, _segments(checkpoint, TRACED_LENGTHS))
    try:
        with _quietly():
            program = torch.onnx.export(
                _Named(checkpoint.network).eval(),
                kwargs={name: torch.from_numpy(numbers) for name, numbers in inputs.items()},
                input_names=list(inputs),
                dynamic_shapes={name: {0: "batch", 1: "length"} for name in inputs},
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:
        # The exporter's own message says how to report a bug; the cause is what went wrong.
        reason = shortened(one_line(error.__cause__ or error))
        raise BertstreamError(
            f"torch's exporter cannot take this {checkpoint.family} model: {reason}"
        ) from error
    assert program is not None
    written = program.model.opset_imports[""]
    if written != opset:
        raise BertstreamError(
            f"torch's exporter writes this {checkpoint.family} model in opset {written}, not "
            f"{opset}: give --opset {written}"
        )
    _name_output(program, _output_name(checkpoint))
    return program


def _name_output(program: torch.onnx.ONNXProgram, name: str) -> None:
    """Name the one output. The exporter would do so too, but twice where that name is taken."""
    graph = program.model.graph
    [output] = graph.outputs
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.name == name:
                value.name = f"{name}_within"
    output.name = name


def _save(program: torch.onnx.ONNXProgram, checkpoint: Checkpoint, path: Path) -> None:
    """Write the graph, the weights in it or, where they are many, beside it."""
    # It carries the stack of every operation, and with it the folders of whoever exported.
    ClearMetadataAndDocStringPass()(program.model)
    weights = chain(checkpoint.network.parameters(), checkpoint.network.buffers())
    size = sum(tensor.nbytes for tensor in weights)
    with _quietly():
        program.save(path, external_data=size > MOST_INLINE_BYTES)


def check_file(checkpoint: Checkpoint, path: Path) -> Check:
    """Run the file beside the network, on batches of many sizes and lengths.

    Raises:
        BertstreamError: one of them cannot run, or ONNX Runtime gives something else.
    """
    batches = _batches(checkpoint)
    engine = Engine(checkpoint, {torch.device("cpu"): checkpoint.network}, name="", path="")
    try:
        expected: list[Floats] = [engine.forward(batch).numpy() for batch in batches]
    except Exception as error:
        raise BertstreamError(
            f"torch itself cannot run this {checkpoint.family} model on up to "
            f"{len(batches[0][0])} tokens: {one_line(error)}"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised as well
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        found: list[Floats] = [
            session.run([_output_name(checkpoint)], _inputs(checkpoint, batch))[0]
            for batch in batches
        ]
    except Exception as error:
        raise BertstreamError(
            f"ONNX Runtime cannot run the exported {checkpoint.family} model: {one_line(error)}"
        ) from error
    return compare(expected, found, batches, is_classifier=checkpoint.task in CLASSIFIERS)


def compare(
    expected: list[Floats], found: list[Floats], batches: Batches, *, is_classifier: bool
) -> Check:
    """Hold what a runtime gives against what torch gives.

    Args:
        expected: (n_segments, width) of each batch.
        found: the same, of the runtime.
        is_classifier: whether the highest number of a row has to be the same one.

    Raises:
        BertstreamError: they differ.
    """
    scale = max(SMALLEST_SCALE, *(float(np.abs(rows).max()) for rows in expected))
    most = 0.0
    for rows, others, batch in zip(expected, found, batches, strict=True):
        where = f"on {len(batch)} inputs of up to {max(map(len, batch))} tokens"
        if others.shape != rows.shape:
            raise BertstreamError(f"ONNX Runtime gives {others.shape} {where}, torch {rows.shape}")
        off = float(np.abs(rows - others).max()) / scale
        if not math.isfinite(off):
            raise BertstreamError(f"no finite numbers {where}")
        if off > TOLERANCE:
            raise BertstreamError(
                f"ONNX Runtime differs from torch by {off:.1e} {where}, more than {TOLERANCE:.0e}"
            )
        if is_classifier and (rows.argmax(1) != others.argmax(1)).any():
            raise BertstreamError(f"ONNX Runtime finds another best label than torch {where}")
        most = max(most, off)
    lengths = [len(segment) for batch in batches for segment in batch]
    return Check(inputs=len(lengths), longest=max(lengths), difference=most)


def _batches(checkpoint: Checkpoint) -> Batches:
    """One token, the full window, and rows of many lengths, with padding and without."""
    longest = min(checkpoint.window, LONGEST_CHECKED)
    padded = min(longest, LONGEST_PADDED)
    mixed = [
        [1],
        [1, 1],
        [padded, 1, padded // 2],
        [5] * 8,
        [3, 17, 64, 9, 33, 2, 48, 11, 24, 6, 40, 1],
    ]
    return [
        _segments(checkpoint, [longest]),
        *(_segments(checkpoint, [min(length, padded) for length in batch]) for batch in mixed),
    ]


def _segments(checkpoint: Checkpoint, lengths: Sequence[int]) -> list[Segment]:
    """Rows of text of exactly these lengths; every second one a pair if the model takes pairs."""
    tokenizer = checkpoint.tokenizer
    known = [t for t in tokenizer.encode([PARAGRAPH])[0].ids if t < checkpoint.vocabulary]
    words = cycle(known or [tokenizer.filler_id])
    segments = []
    for place, length in enumerate(lengths):
        paired = checkpoint.takes_pairs and place % 2 == 1
        template = tokenizer.pair if paired else tokenizer.single
        room = max(0, length - template.n_special)
        texts = [room - room // 2, room // 2] if paired else [room]
        ids, types = template.fill(*(list(islice(words, share)) for share in texts))
        segments.append(Segment(ids[:length], None if types is None else types[:length], 1))
    return segments


def _inputs(checkpoint: Checkpoint, segments: list[Segment]) -> dict[str, NDArray[np.int64]]:
    """What the file takes of a batch, by name: each (n, length)."""
    token_ids, mask, type_ids = rectangle(segments, checkpoint.tokenizer.pad_id)
    inputs = {"input_ids": token_ids, "attention_mask": mask.astype(np.int64)}
    if checkpoint.takes_types:
        inputs["token_type_ids"] = np.zeros_like(token_ids) if type_ids is None else type_ids
    return inputs


def _save_tokenizer(checkpoint: Checkpoint, trust: Trust, folder: Path) -> None:
    """Write the tokenizer as it is used here: it lowers what it should, and cuts nothing off."""
    with quiet_transformers():
        fast = transformers.AutoTokenizer.from_pretrained(
            checkpoint.folder,
            trust_remote_code=trust.remote_code,
            local_files_only=not trust.remote_code,
        )
        Tokenizer(fast, lowercase=read_limits(checkpoint.folder).lowercase)
        fast.model_max_length = checkpoint.window
        fast.save_pretrained(folder)


def _describe(
    checkpoint: Checkpoint, spec: str, aggregation: Aggregation, segment_overlap: int
) -> dict[str, Any]:
    """What whoever serves the file has to know of it."""
    task = checkpoint.task
    embeds = task is Task.EMBEDDING
    several = task is Task.TEXT_CLASSIFICATION and len(checkpoint.labels) > 1
    if embeds:
        joined = "the embeddings of the segments are averaged, weighted by their tokens"
        joined += ", and scaled to length 1" if checkpoint.normalizes else ""
    else:
        joined = AGGREGATIONS[aggregation]
    return {
        "source": spec,
        "model_version": checkpoint.version,
        "family": checkpoint.family,
        "task": str(task),
        "inputs": list(_inputs(checkpoint, _segments(checkpoint, [1]))),
        "output": _output_name(checkpoint),
        "labels": None if embeds else list(checkpoint.labels),
        "activation": (
            None if embeds or task is Task.REGRESSION else "softmax" if several else "sigmoid"
        ),
        "threshold": (checkpoint.threshold if task is Task.MULTI_LABEL_CLASSIFICATION else None),
        "normalizes": checkpoint.normalizes,
        "prompt": checkpoint.prompt,
        "takes_pairs": checkpoint.takes_pairs,
        "window": checkpoint.window,
        "pad_id": checkpoint.tokenizer.pad_id,
        "long_documents": {
            "aggregation": "mean" if embeds else aggregation,
            "overlap": segment_overlap,
            "how": (
                f"split at words into segments of at most {checkpoint.window} tokens, special "
                f"ones included, that share {segment_overlap}; {joined}"
            ),
        },
    }


def _output_name(checkpoint: Checkpoint) -> str:
    return "embedding" if checkpoint.task is Task.EMBEDDING else "logits"


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep what exporters print, warn of and log from the user, in the whole process."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
