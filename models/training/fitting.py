"""What fitting a head and fine-tuning a whole model have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.errors import BertstreamError
from models.inference.device import computes_bfloat16
from models.nn.classifier import ClassifierHead

Precision = Literal["auto", "float32", "bfloat16"]
"""auto: bfloat16 where the hardware computes it. Weights are in float32 all the same."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training documents."""

    number: int
    """From 1."""
    training_loss: float
    """Mean over the pass, dropout and label smoothing included."""
    validation_loss: float | None = None
    """Negative log-likelihood of the validation documents; None: there are none."""
    validation_accuracy: float | None = None

    def improves_on(self, other: Epoch | None) -> bool:
        """Whether its validation loss is lower; where there is none, the later pass is better."""
        if other is None or self.validation_loss is None or other.validation_loss is None:
            return True
        return self.validation_loss < other.validation_loss


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted head in evaluation mode, and how it came about."""

    head: ClassifierHead
    epochs: tuple[Epoch, ...]
    best: Epoch
    """The pass with the lowest validation loss, or the last one where there is no validation."""
    held_out: int
    """Documents that the best pass was found on."""


def split_by_label(targets: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split documents at random so that each label keeps its proportion.

    A label's only document is for training; of more, at least one goes to each side.

    Args:
        targets: number of each document's label (n,).
        share: of the documents, for the second part.

    Returns:
        Numbers of the documents of both parts, ascending.

    Raises:
        ValueError: no label has two documents.
    """
    labels, counts = torch.unique(targets, return_counts=True)
    if counts.max() < 2:
        raise ValueError("no label has two documents")
    random = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(targets), dtype=torch.bool)
    for label, count in zip(labels, counts.tolist(), strict=True):
        documents = (targets == label).nonzero().squeeze(1)
        n = min(max(round(share * count), 1), count - 1)
        held_out[documents[torch.randperm(count, generator=random)[:n]]] = True
    return (~held_out).nonzero().squeeze(1), held_out.nonzero().squeeze(1)


def judge(log_probs: Tensor, expected: Tensor) -> tuple[float | None, float | None]:
    """Mean negative log-likelihood and accuracy of documents; None where there are none.

    Args:
        log_probs: (n, n_labels).
        expected: number of each document's label (n,).
    """
    if not len(expected):
        return None, None
    accuracy = (log_probs.argmax(-1) == expected).float().mean()
    return F.nll_loss(log_probs, expected).item(), accuracy.item()


def balanced_weights(targets: Tensor, n_labels: int) -> Tensor:
    """Weight of each label (n_labels,) with which all labels count as much as each other.

    Args:
        targets: number of each document's label (n,); over these the weights' mean is 1.
    """
    counts = torch.bincount(targets, minlength=n_labels).clamp(min=1)
    return len(targets) / (n_labels * counts)


def parameter_groups(weights: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """For AdamW: weights that decay, and those that do not, biases and normalisations."""
    weights = list(weights)
    return [
        {"params": [one for one in weights if one.ndim > 1], "weight_decay": weight_decay},
        {"params": [one for one in weights if one.ndim <= 1], "weight_decay": 0.0},
    ]


def linear_rate(step: int, steps: int, warm_up: float) -> float:
    """The learning rate of a step, counted from 0, as a share of the highest.

    It rises evenly for a share `warm_up` of the steps, and falls to 0 as evenly.
    """
    rising = max(1, round(warm_up * steps))
    if step < rising:
        return (step + 1) / rising
    return max(0, steps - step) / max(1, steps - rising)


def is_reduced(precision: Precision, device: torch.device) -> bool:
    """Whether to compute in bfloat16 there."""
    return computes_bfloat16(device) if precision == "auto" else precision == "bfloat16"


def require_finite(loss: float, step: int, learning_rate: float) -> None:
    """See that a loss is a number.

    Raises:
        BertstreamError: it is none any more.
    """
    if not math.isfinite(loss):
        raise BertstreamError(
            f"the loss is no number any more at step {step:,}: try a lower learning rate than "
            f"{learning_rate:g}"
        )
