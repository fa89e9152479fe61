"""What a classifier is to learn of its documents: which one of the labels, or which of them all.

Targets are numbers of labels (n,) where a document has one, and 0 or 1 by label (n, n_labels) where
it may have any number. All that follows tells the two apart by their shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
        weights: of each label, as `balanced_weights` gives them.
        smoothing: share of each target that is spread evenly over what else it could be.
    """
    if targets.ndim == 1:
        return F.cross_entropy(
            logits, targets, weight=weights, reduction="none", label_smoothing=smoothing
        )
    smoothed = targets * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(
        logits, smoothed, pos_weight=weights, reduction="none"
    ).mean(1)


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


@dataclass(frozen=True, slots=True)
class Split:
    """Numbers of the documents that are learned from, and of those that judge, ascending."""

    training: Tensor
    validation: Tensor


def split_by_label(
    targets: Tensor, share: float, seed: int, origins: Tensor | None = None
) -> Split:
    """Split documents at random so that each label keeps its proportion.

    A label's only document is for training; of more, at least one goes to each side. Of labels that
    exclude nothing the rarest is shared out first (after Sechidis et al. 2011).

    Args:
        share: of the documents, to judge; 0: all are learned from.
        origins: the document that each was made from (n,), its own number for one that is no copy;
            a copy is learned from where its origin is, and judges nothing.

    Raises:
        ValueError: no label has two documents.
    """
    random = torch.Generator().manual_seed(seed)
    origins = torch.arange(len(targets)) if origins is None else origins
    held_out = torch.zeros(len(targets), dtype=torch.bool)
    if share:
        originals = origins == torch.arange(len(targets))
        members = [(own & originals).nonzero().squeeze(1) for own in _by_label(targets)]
        if max(map(len, members)) < 2:
            raise ValueError("no label has two documents")
        settled = torch.zeros(len(targets), dtype=torch.bool)
        for documents in members if targets.ndim == 1 else sorted(members, key=len):
            open_ = documents[~settled[documents]]
            n = len(documents)
            wanted = min(max(round(share * n), 1), n - 1) - int(held_out[documents].sum())
            drawn = torch.randperm(len(open_), generator=random)[: max(wanted, 0)]
            held_out[open_[drawn]] = True
            settled[documents] = True
    return _split(held_out, origins)


def folds_by_label(
    targets: Tensor, count: int, seed: int, origins: Tensor | None = None
) -> Iterator[Split]:
    """Split documents `count` times, so that each judges once and labels keep their proportions.

    Args:
        origins: as for `split_by_label`.
    """
    random = torch.Generator().manual_seed(seed)
    origins = torch.arange(len(targets)) if origins is None else origins
    fold = torch.full((len(targets),), -1)
    originals = origins == torch.arange(len(targets))
    dealt = 0
    for own in sorted(_by_label(targets), key=lambda own: int(own.sum())):
        open_ = (own & originals & (fold < 0)).nonzero().squeeze(1)
        shuffled = open_[torch.randperm(len(open_), generator=random)]
        fold[shuffled] = (dealt + torch.arange(len(shuffled))) % count
        dealt += len(shuffled)
    for number in range(count):
        yield _split(fold == number, origins)


def _by_label(targets: Tensor) -> list[Tensor]:
    """For each label, and for none at all, whether each document has it (n,)."""
    if targets.ndim == 1:
        return [targets == label for label in torch.unique(targets)]
    return [*(targets.T > 0), targets.sum(1) == 0]


def _split(held_out: Tensor, origins: Tensor) -> Split:
    """Hold documents out, and whatever was made from them away from both sides."""
    training = (~held_out[origins]).nonzero().squeeze(1)
    return Split(training, held_out.nonzero().squeeze(1))
