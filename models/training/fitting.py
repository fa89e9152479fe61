"""What fitting a head and fine-tuning a whole model have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

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
    """Cross-entropy of the validation documents; None: there are none."""
    validation_accuracy: float | None = None
    """Of a document that may have several labels, each of them must be right."""

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
