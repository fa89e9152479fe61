"""What a classifier is to learn of its documents: which one of the labels, or which of them all.

Targets are numbers of labels (n,) where a document has one, and 0 or 1 by label (n, n_labels) where
it may have any number. All that follows tells the two apart by their shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def make_targets(
    documents: Sequence[Sequence[str]], labels: Sequence[str], *, multi_label: bool
) -> Tensor:
    """The targets of documents: (n,), or (n, n_labels) where labels exclude nothing.

    Args:
        documents: the labels of each, one unless `multi_label`.
        labels: all, in the order of their numbers.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    if not multi_label:
        return torch.tensor([numbers[label] for (label,) in documents])
    targets = torch.zeros(len(documents), len(labels))
    for row, own in zip(targets, documents, strict=True):
        row[[numbers[label] for label in own]] = 1
    return targets


def losses(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of each row (n,); over independent labels, their mean.

    Args:
        logits: (n, n_labels).
        weights: of each label, as `balanced_weights` gives them: how much a document counts that
            has it.
        smoothing: share of each target that is spread evenly over all that it could be.
    """
    if targets.ndim == 1:
        each = F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
        return each if weights is None else each * weights[targets]
    smoothed = targets * (1 - smoothing) + smoothing / 2
    each = F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none")
    if weights is not None:
        each = each * torch.where(targets > 0, weights, 1)
    return each.mean(1)


def judge(logits: Tensor, targets: Tensor) -> tuple[float | None, float | None]:
    """Mean loss and accuracy of documents; None where there are none.

    A document that may have several labels is right where each of them is.
    """
    if not len(targets):
        return None, None
    right = logits.argmax(-1) == targets if targets.ndim == 1 else chosen(logits).eq(targets).all(1)
    return losses(logits, targets).mean().item(), right.float().mean().item()


def chosen(logits: Tensor) -> Tensor:
    """Whether each of independent labels is more likely than not (n, n_labels), as in serving."""
    return logits > 0


def balanced_weights(targets: Tensor, n_labels: int) -> Tensor:
    """Weight of each label (n_labels,) with which all labels count as much as each other.

    Of labels that exclude nothing it is that of having one, against not having it.
    """
    if targets.ndim == 2:
        having = targets.sum(0)
        return (len(targets) - having).clamp(min=1) / having.clamp(min=1)
    counts = torch.bincount(targets, minlength=n_labels).clamp(min=1)
    return len(targets) / (n_labels * counts)
