"""A fully connected classifier head for an encoder, and its checkpoint folder.

The folder holds `classifier.json` (encoder, pooling, layers, labels) and
`classifier.safetensors` (the weights); `bertstream train` adds a model card (`README.md`) and a
record of the training (`training.json`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.errors import ModelLoadError

CONFIG_NAME = "classifier.json"
WEIGHTS_NAME = "classifier.safetensors"
FORMAT = 1
FORMAT_OF_JOINS = 2
"""Of heads that join segments: who knows format 1 alone would serve them segment by segment."""
JOIN = ("segments", "slots")

Pooling = Literal["mean", "cls", "pooled"]
"""Mean over the real tokens, first token, or the encoder's own `pooler_output`."""

Combination = Literal["average", "sum", "concatenation"]
"""Of a document's segments. average: each is predicted, and their predictions are averaged. sum and
concatenation: what the encoder gives for them is joined, see `join_segments`, and predicted once.
"""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """What `classifier.json` says, checked when it is made.

    Raises:
        ValueError: one line that names the field and what it should be.
    """

    encoder: str
    """`builtin`, a checkpoint folder, or a model id of the hub with optional `@revision`."""
    layers: tuple[int, ...]
    """Width of the features, of every hidden layer, and the number of labels."""
    labels: tuple[str, ...]
    pooling: Pooling = "mean"
    normalize: bool = False
    """Whether the pooled features are scaled to length 1; the head does it itself."""
    activation: str = "gelu"
    dropout: float = 0.0
    """Probability with which training drops an input of a layer."""
    multi_label: bool = False
    segments: Combination = "average"
    slots: int = 1
    """Segments that are told apart in a concatenation."""

    def __post_init__(self) -> None:
        if not isinstance(self.encoder, str) or not self.encoder:
            raise ValueError(f"encoder: {self.encoder!r} is no checkpoint")
        if len(self.layers) < 2 or not all(type(n) is int and n > 0 for n in self.layers):
            raise ValueError(f"layers: {list(self.layers)} are not two or more positive widths")
        if not self.labels or not all(isinstance(label, str) and label for label in self.labels):
            raise ValueError(f"labels: {list(self.labels)} are not one or more names")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels: {list(self.labels)} name one twice")
        if self.layers[-1] != len(self.labels):
            raise ValueError(f"layers: {self.layers[-1]} outputs for {len(self.labels)} labels")
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling: {self.pooling!r} is not one of mean, cls, pooled")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation: {self.activation!r} is not one of {', '.join(ACTIVATIONS)}"
            )
        if type(self.dropout) not in (int, float) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: {self.dropout!r} is no number from 0 up to 1")
        if self.segments not in get_args(Combination):
            raise ValueError(
                f"segments: {self.segments!r} is not one of average, sum, concatenation"
            )
        if type(self.slots) is not int or self.slots < 1 or self.layers[0] % self.slots:
            raise ValueError(
                f"slots: {self.slots!r} do not share the {self.layers[0]} features evenly"
            )
        for name in ("normalize", "multi_label"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: {getattr(self, name)!r} is neither true nor false")

    @property
    def joins_segments(self) -> bool:
        """Whether it is given a document at once, rather than each of its segments."""
        return self.segments != "average"

    def facts(self) -> dict[str, Any]:
        """All of it as JSON takes it; of segments only where they are joined."""
        facts = asdict(self)
        return facts if self.joins_segments else {k: v for k, v in facts.items() if k not in JOIN}

    def to_json(self) -> str:
        """The text of `classifier.json`."""
        facts = {"format": FORMAT_OF_JOINS if self.joins_segments else FORMAT, **self.facts()}
        return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> HeadConfig:
        """Read the text of `classifier.json`.

        Raises:
            ValueError: it is no JSON, of another format, or a field is missing or malformed.
        """
        values = json.loads(text)
        if not isinstance(values, dict) or values.get("format") not in (FORMAT, FORMAT_OF_JOINS):
            raise ValueError(
                f"it is no head of format {FORMAT} or {FORMAT_OF_JOINS}; a newer bertstream may "
                "read it"
            )
        missing = {"encoder", "layers", "labels"} - values.keys()
        if missing:
            raise ValueError(f"{', '.join(sorted(missing))}: missing")
        for name in ("layers", "labels"):
            if not isinstance(values[name], list):
                raise ValueError(f"{name}: {values[name]!r} is no list")
            values[name] = tuple(values[name])
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


class ClassifierHead(nn.Module):
    """Pooled features in, logits out; weights stay in float32 unless moved.

    Every layer is preceded by dropout, every layer but the last is followed by the activation.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            nn.Linear(width, next_width)
            for width, next_width in zip(config.layers, config.layers[1:], strict=False)
        )
        self._activation = ACTIVATIONS[config.activation]

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the logits, in their order."""
        return self.config.labels

    def forward(self, features: Tensor) -> Tensor:
        """Score pooled features (n, layers[0]), as the encoder gives them: logits (n, labels).

        Features of another precision are converted to that of the weights, and normalised here
        where the configuration says so.
        """
        *hidden, last = self.layers
        x = features.to(next(self.parameters()).dtype)  # (n, layers[0])
        if self.config.normalize:
            x = F.normalize(x, dim=-1)
        for layer in hidden:
            x = self._activation(layer(self._drop(x)))  # (n, layers[i])
        logits: Tensor = last(self._drop(x))  # (n, n_labels)
        return logits

    def classify_documents(self, pooled: Tensor, owners: Tensor, count: int) -> Tensor:
        """Score documents by all of their segments: logits (count, n_labels).

        Args:
            pooled: what the encoder gives for the segments (n_segments, d_model).
            owners: the document that each segment belongs to (n_segments,), ascending from 0.
        """
        return self(join_segments(pooled, owners, count, self.config))  # type: ignore[no-any-return]

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.config.dropout, self.training)

    def save(self, folder: Path) -> None:
        """Write configuration and weights into `folder`, which is made if it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: w.detach().cpu().contiguous() for name, w in self.state_dict().items()}
        # Not `save_file`, whose files only their owner can read.
        (folder / WEIGHTS_NAME).write_bytes(save(weights, metadata={"format": "pt"}))
        (folder / CONFIG_NAME).write_text(self.config.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str) -> ClassifierHead:
        """Read a head from its folder, on the CPU and in evaluation mode.

        Raises:
            ModelLoadError: a file is missing or malformed, or the weights do not fit the layers.
        """
        folder = Path(folder)
        try:
            config = HeadConfig.from_json((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        except OSError as error:
            raise ModelLoadError(f"{folder / CONFIG_NAME}: {error.strerror}") from None
        except ValueError as error:
            raise ModelLoadError(f"{folder / CONFIG_NAME}: {error}") from None
        head = cls(config)
        try:
            head.load_state_dict(_weights(folder / WEIGHTS_NAME, head.state_dict()))
        except (OSError, SafetensorError, ValueError) as error:
            raise ModelLoadError(f"{folder / WEIGHTS_NAME}: {error}") from None
        return head.eval()


def join_segments(pooled: Tensor, owners: Tensor, count: int, config: HeadConfig) -> Tensor:
    """Join what an encoder gives for the segments of documents: (count, layers[0]).

    A sum is that. A concatenation has one slot for each segment, and zeros where there are fewer;
    the segments of a document that has more than slots are shared out over these in their order,
    and averaged within each.

    Args:
        pooled: (n_segments, d_model).
        owners: the document that each segment belongs to (n_segments,), ascending from 0.
    """
    if config.segments == "sum":
        return pooled.new_zeros(count, pooled.shape[1]).index_add(0, owners, pooled)
    slots = config.slots
    of_document = torch.bincount(owners, minlength=count)  # (count,)
    first = of_document.cumsum(0) - of_document
    position = torch.arange(len(owners), device=owners.device) - first[owners]
    crowded = of_document.clamp(min=slots)[owners]
    places = owners * slots + position * slots // crowded  # (n_segments,)
    sums = pooled.new_zeros(count * slots, pooled.shape[1]).index_add(0, places, pooled)
    taken = torch.bincount(places, minlength=count * slots).clamp(min=1)
    return (sums / taken.unsqueeze(1)).view(count, -1)


def is_head_checkpoint(folder: Path | str) -> bool:
    """Whether `folder` holds a classifier head rather than a whole model."""
    return (Path(folder) / CONFIG_NAME).is_file()


def _weights(path: Path, expected: dict[str, Any]) -> dict[str, Tensor]:
    """Read weights and compare their names and shapes with `expected`."""
    if not path.is_file():
        raise ValueError("no such file; a head is never filled with random weights")
    weights = load_file(path)
    shapes = {name: list(weight.shape) for name, weight in weights.items()}
    wanted = {name: list(weight.shape) for name, weight in expected.items()}
    for name in sorted(shapes.keys() | wanted.keys()):
        if shapes.get(name) != wanted.get(name):
            raise ValueError(f"{name} is {shapes.get(name)}, {CONFIG_NAME} says {wanted.get(name)}")
    return weights
