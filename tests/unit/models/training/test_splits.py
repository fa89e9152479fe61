"""Documents that are held out: a share of each label's, or all in turn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.training.splits import folds_by_label, split_by_label


def several(n: int = 400) -> Tensor:
    """Targets of four labels, one rarer than the other, some with none and some with all."""
    random = torch.Generator().manual_seed(0)
    return (torch.rand(n, 4, generator=random) < torch.tensor([0.5, 0.3, 0.1, 0.02])).float()


def test_split_keeps_the_proportions_of_labels() -> None:
    targets = torch.tensor([0] * 100 + [1] * 50 + [2] * 2 + [3])
    split = split_by_label(targets, 0.1, seed=3)
    both = torch.cat([split.training, split.validation])
    assert torch.equal(both.sort().values, torch.arange(153))
    assert targets[split.validation].bincount(minlength=4).tolist() == [10, 5, 1, 0]
    again, other = (split_by_label(targets, 0.1, seed=seed) for seed in (3, 4))
    assert torch.equal(split.validation, again.validation)
    assert not torch.equal(split.validation, other.validation)
    whole = split_by_label(targets, 0, seed=3)
    assert torch.equal(whole.training, torch.arange(153))
    assert not len(whole.validation)


def test_split_keeps_the_proportions_of_labels_that_exclude_nothing() -> None:
    targets = several()
    split = split_by_label(targets, 0.25, seed=0)
    both = torch.cat([split.training, split.validation])
    assert torch.equal(both.sort().values, torch.arange(400))
    held_out, whole = targets[split.validation].sum(0), targets.sum(0)
    assert torch.all((held_out - 0.25 * whole).abs() <= 0.05 * whole + 2)
    assert torch.all(held_out >= 1)
    none = (targets.sum(1) == 0).nonzero().squeeze(1)
    assert len(set(none.tolist()) & set(split.validation.tolist())) == round(0.25 * len(none))


def test_split_needs_two_documents_of_a_label() -> None:
    with pytest.raises(ValueError, match="two documents"):
        split_by_label(torch.tensor([0, 1, 2]), 0.1, seed=0)


@pytest.mark.parametrize("multi_label", [False, True])
def test_each_document_is_in_one_fold(multi_label: bool) -> None:
    targets = several() if multi_label else torch.tensor([0] * 100 + [1] * 53 + [2] * 7)
    folds = list(folds_by_label(targets, 5, seed=1))
    judged = torch.cat([fold.validation for fold in folds])
    assert torch.equal(judged.sort().values, torch.arange(len(targets)))
    for fold in folds:
        both = torch.cat([fold.training, fold.validation])
        assert torch.equal(both.sort().values, torch.arange(len(targets)))
        assert abs(len(fold.validation) - len(targets) / 5) <= 1
        if not multi_label:
            counts = targets[fold.validation].bincount(minlength=3)
            assert torch.all((counts - torch.tensor([20, 10.6, 1.4])).abs() < 1)


@pytest.mark.parametrize("multi_label", [False, True])
def test_copies_are_on_the_side_of_their_original_and_judge_nothing(multi_label: bool) -> None:
    targets = several(100) if multi_label else torch.arange(100) % 3
    origins = torch.cat([torch.arange(100), torch.arange(100).repeat_interleave(2)])
    whole = targets[origins]
    splits = [split_by_label(whole, 0.2, 0, origins), *folds_by_label(whole, 4, 0, origins)]
    for split in splits:
        assert torch.all(split.validation < 100)
        assert len(split.training) == 3 * (100 - len(split.validation))
        held_out = set(split.validation.tolist())
        assert not held_out & set(origins[split.training].tolist())


def test_each_label_is_learned_however_labels_overlap() -> None:
    targets = torch.tensor([[1, 0, 0], [1, 0, 1], [0, 1, 1], [0, 1, 0]]).float()
    for seed in range(50):
        split = split_by_label(targets, 0.1, seed)
        assert torch.all(targets[split.training].sum(0) >= 1)
        assert len(split.validation)


def test_many_labels_take_little_memory() -> None:
    """A mask of all documents for each label would be 40 GB."""
    targets = torch.arange(200_000)
    targets[-1] = 0
    split = split_by_label(targets, 0.1, 0)
    assert split.validation.tolist() in ([0], [199_999])
