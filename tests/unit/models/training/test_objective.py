"""Targets of one label or of several, and their losses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from models.training.objective import balanced_weights, judge, losses, make_targets


def several(n: int = 400) -> Tensor:
    """Targets of four labels, one rarer than the other, some with none and some with all."""
    random = torch.Generator().manual_seed(0)
    return (torch.rand(n, 4, generator=random) < torch.tensor([0.5, 0.3, 0.1, 0.02])).float()


def test_targets_are_numbers_or_rows() -> None:
    labels = ("a", "b", "c")
    assert make_targets([("b",), ("a",)], labels, multi_label=False).tolist() == [1, 0]
    rows = make_targets([("c", "a"), ()], labels, multi_label=True)
    assert rows.tolist() == [[1, 0, 1], [0, 0, 0]]


def test_losses_are_cross_entropies() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    single = torch.tensor([0, 2, 1, 1, 0])
    one = losses(logits, single)
    torch.testing.assert_close(one, -logits.log_softmax(-1)[torch.arange(5), single])
    rows = several(5)[:, :3]
    both = losses(logits, rows)
    chosen, not_chosen = logits.sigmoid().log(), (-logits).sigmoid().log()
    torch.testing.assert_close(both, -(rows * chosen + (1 - rows) * not_chosen).mean(1))
    smooth = losses(logits, rows, smoothing=0.2)
    towards = rows * 0.8 + 0.1
    torch.testing.assert_close(smooth, -(towards * chosen + (1 - towards) * not_chosen).mean(1))


def test_a_document_of_several_labels_is_right_where_all_are() -> None:
    targets = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    logits = torch.tensor([[2.0, -1.0], [2.0, -1.0], [-1.0, -1.0]])
    loss, accuracy = judge(logits, targets)
    assert accuracy == pytest.approx(2 / 3)
    assert loss == pytest.approx(F.binary_cross_entropy_with_logits(logits, targets).item())
    assert judge(torch.tensor([[0.0, 1.0]]), torch.tensor([1]))[1] == 1.0
    assert judge(torch.empty(0, 2), torch.empty(0, 2)) == (None, None)


def test_balanced_weights_let_labels_count_the_same() -> None:
    targets = torch.tensor([0] * 6 + [1] * 3 + [3])
    weights = balanced_weights(targets, 4)
    assert weights[targets].mean().item() == pytest.approx(10 * 3 / 4 / 10)
    counted = [weights[label].item() * (targets == label).sum().item() for label in (0, 1, 3)]
    assert counted == pytest.approx([2.5, 2.5, 2.5])


def test_a_document_counts_by_what_it_has_however_targets_are_smoothed() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    single, weights = torch.tensor([0, 2, 1, 2]), torch.tensor([0.5, 1.0, 8.0])
    torch.testing.assert_close(
        losses(logits, single, weights, 0.1), losses(logits, single, None, 0.1) * weights[single]
    )
    none = torch.zeros(4, 3)
    torch.testing.assert_close(losses(logits, none, weights, 0.1), losses(logits, none, None, 0.1))
    whole = losses(logits, 1 - none, weights, 0.1)
    assert torch.all(whole > losses(logits, 1 - none, None, 0.1))


def test_balanced_weights_let_having_a_label_count_as_much_as_not_having_it() -> None:
    targets = several()
    having = targets.sum(0)
    torch.testing.assert_close(balanced_weights(targets, 4) * having, 400 - having)
