"""Documents to learn from, and others that judge: a share of each label's, or all in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


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
    exclude nothing the rarest is shared out first (after Sechidis et al. 2011): each has a document
    left to learn from, and one that judges unless all of its documents are the last of another.

    Args:
        targets: see `objective`.
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
        members = _members(targets, origins)
        if max(map(len, members)) < 2:
            raise ValueError("no label has two documents")
        if targets.ndim == 2:
            _draw_of_several(targets, members, share, random, held_out)
        else:
            for documents in members:
                drawn = torch.randperm(len(documents), generator=random)
                held_out[documents[drawn[: _wanted(share, len(documents))]]] = True
    return _split(held_out, origins)


def folds_by_label(
    targets: Tensor, count: int, seed: int, origins: Tensor | None = None
) -> Iterator[Split]:
    """Split documents `count` times, so that each judges once and labels keep their proportions.

    Args:
        targets: see `objective`.
        origins: as for `split_by_label`.
    """
    random = torch.Generator().manual_seed(seed)
    origins = torch.arange(len(targets)) if origins is None else origins
    fold = torch.full((len(targets),), -1)
    dealt = 0
    for documents in sorted(_members(targets, origins), key=len):
        open_ = documents[fold[documents] < 0]
        shuffled = open_[torch.randperm(len(open_), generator=random)]
        fold[shuffled] = (dealt + torch.arange(len(shuffled))) % count
        dealt += len(shuffled)
    for number in range(count):
        yield _split(fold == number, origins)


def _members(targets: Tensor, origins: Tensor) -> list[Tensor]:
    """Numbers of the documents, copies apart, of each label, and of those without any."""
    originals = (origins == torch.arange(len(targets))).nonzero().squeeze(1)
    if targets.ndim == 1:
        _, counts = torch.unique(targets[originals], return_counts=True)
        order = targets[originals].argsort(stable=True)
        return list(torch.split(originals[order], counts.tolist()))
    rows = targets[originals]
    columns = [originals[column.nonzero().squeeze(1)] for column in rows.T]
    return [*columns, originals[(rows.sum(1) == 0).nonzero().squeeze(1)]]


def _draw_of_several(
    targets: Tensor,
    members: list[Tensor],
    share: float,
    random: torch.Generator,
    held_out: Tensor,
) -> None:
    """Hold documents out, in place; see `split_by_label`."""
    left = torch.tensor([len(documents) for documents in members[:-1]])  # (n_labels,)
    settled = torch.zeros(len(targets), dtype=torch.bool)
    for documents in sorted(members, key=len):
        wanted = _wanted(share, len(documents)) - int(held_out[documents].sum())
        open_ = documents[~settled[documents]]
        for document in open_[torch.randperm(len(open_), generator=random)].tolist():
            own = targets[document] > 0
            if wanted > 0 and bool((left[own] > 1).all()):
                held_out[document] = True
                left[own] -= 1
                wanted -= 1
        settled[documents] = True


def _wanted(share: float, n: int) -> int:
    return max(0, min(max(round(share * n), 1), n - 1))


def _split(held_out: Tensor, origins: Tensor) -> Split:
    """Hold documents out, and whatever was made from them away from both sides."""
    training = (~held_out[origins]).nonzero().squeeze(1)
    return Split(training, held_out.nonzero().squeeze(1))
