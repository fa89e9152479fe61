"""Heads fitted on features: they learn, repeatably, and stop in time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.nn.classifier import HeadConfig
from models.training.features import Features
from models.training.frozen import Epoch, FitOptions, fit_head, predict, split_by_label

Blobs = tuple[Features, list[str]]

CONFIG = HeadConfig(encoder="builtin", layers=(16, 8, 3), labels=("a", "b", "c"), dropout=0.2)
OPTIONS = FitOptions(epochs=30, batch_size=16, patience=5)


def accuracy(head: object, features: Features, labels: list[str]) -> float:
    best = predict(head, features).argmax(-1).tolist()  # type: ignore[arg-type]
    return sum("abc"[i] == label for i, label in zip(best, labels, strict=True)) / len(labels)


@pytest.mark.parametrize(
    "config",
    [CONFIG, replace(CONFIG, normalize=True), replace(CONFIG, layers=(16, 3), activation="relu")],
    ids=["hidden layer", "normalized", "linear"],
)
def test_learns_what_can_be_learned(blobs: Blobs, config: HeadConfig) -> None:
    features, labels = blobs
    fit = fit_head(features, labels, config, OPTIONS)
    assert not fit.head.training
    assert fit.head.config == config
    assert accuracy(fit.head, features, labels) > 0.97
    assert fit.held_out == 24
    assert fit.best.validation_accuracy > 0.9


def test_the_same_seed_gives_the_same_head(blobs: Blobs) -> None:
    options = replace(OPTIONS, epochs=3)
    torch.manual_seed(1)
    one = fit_head(*blobs, CONFIG, options)
    torch.manual_seed(2)
    two = fit_head(*blobs, CONFIG, options)
    three = fit_head(*blobs, CONFIG, replace(options, seed=1))
    weights = [fit.head.state_dict() for fit in (one, two, three)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert one.epochs == two.epochs
    assert not torch.equal(weights[0]["layers.0.weight"], weights[2]["layers.0.weight"])


def test_stops_when_nothing_improves(blobs: Blobs) -> None:
    features, labels = blobs
    random = torch.Generator().manual_seed(0)
    shuffled = [labels[i] for i in torch.randperm(len(labels), generator=random)]
    epochs: list[Epoch] = []
    fit = fit_head(features, shuffled, CONFIG, replace(OPTIONS, epochs=500), epochs.append)
    assert tuple(epochs) == fit.epochs
    assert [epoch.number for epoch in epochs] == list(range(1, len(epochs) + 1))
    assert len(epochs) == fit.best.number + OPTIONS.patience < 500
    assert fit.best.validation_loss == min(epoch.validation_loss for epoch in epochs)


def test_segments_are_aggregated_by_share() -> None:
    features = Features(torch.zeros(3, 1), torch.tensor([0, 0, 1]), torch.tensor([0.75, 0.25, 1]))
    log_probs = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]).log()
    mean = 0.75 * log_probs[0] + 0.25 * log_probs[1]
    expected = torch.stack([mean.log_softmax(-1), log_probs[2]])
    torch.testing.assert_close(features.aggregate(log_probs), expected)


def test_selected_documents_are_numbered_anew(blobs: Blobs) -> None:
    features, _ = blobs
    kept = features.select(torch.tensor([0, 3, 20]))
    assert kept.owners.tolist() == [0, 0, 1, 2, 2]
    assert kept.shares.tolist() == [0.75, 0.25, 1.0, 0.75, 0.25]
    assert torch.equal(kept.rows[2], features.rows[features.owners == 3][0])
    assert len(kept) == 3


def test_split_keeps_the_proportions_of_labels() -> None:
    targets = torch.tensor([0] * 100 + [1] * 50 + [2] * 2 + [3])
    training, validation = split_by_label(targets, 0.1, seed=3)
    assert torch.equal(torch.cat([training, validation]).sort().values, torch.arange(153))
    assert targets[validation].bincount(minlength=4).tolist() == [10, 5, 1, 0]
    assert torch.equal(validation, split_by_label(targets, 0.1, seed=3)[1])
    assert not torch.equal(validation, split_by_label(targets, 0.1, seed=4)[1])


def test_split_needs_two_documents_of_a_label() -> None:
    with pytest.raises(ValueError, match="two documents"):
        split_by_label(torch.tensor([0, 1, 2]), 0.1, seed=0)
