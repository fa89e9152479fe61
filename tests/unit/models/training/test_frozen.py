"""Heads fitted on features: they learn, repeatably, and stop in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from models.errors import BertstreamError
from models.nn.classifier import Combination, HeadConfig
from models.training.fitting import Epoch, Fit
from models.training.frozen import Features, FitOptions, fit_head, predict
from models.training.objective import chosen, make_targets
from models.training.segments import Parts
from models.training.splits import split_by_label

Blobs = tuple[Features, list[str]]

CONFIG = HeadConfig(encoder="builtin", layers=(16, 8, 3), labels=("a", "b", "c"), dropout=0.2)
OPTIONS = FitOptions(epochs=30, batch_size=16, patience=5)


def fit_on(
    features: Features,
    labels: Sequence[str],
    config: HeadConfig,
    options: FitOptions,
    report: Callable[[Epoch], None] = lambda _: None,
) -> Fit:
    targets = make_targets([(one,) for one in labels], config.labels, multi_label=False)
    split = split_by_label(targets, options.validation, options.seed)
    return fit_head(features, targets, config, options, split, report)


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
    fit = fit_on(features, labels, config, OPTIONS)
    assert not fit.head.training
    assert fit.head.config == config
    assert accuracy(fit.head, features, labels) > 0.97
    assert fit.held_out == 24
    assert fit.best.validation_accuracy is not None
    assert fit.best.validation_accuracy > 0.9


def test_the_same_seed_gives_the_same_head(blobs: Blobs) -> None:
    options = replace(OPTIONS, epochs=3)
    torch.manual_seed(1)
    one = fit_on(*blobs, CONFIG, options)
    torch.manual_seed(2)
    two = fit_on(*blobs, CONFIG, options)
    three = fit_on(*blobs, CONFIG, replace(options, seed=1))
    weights = [fit.head.state_dict() for fit in (one, two, three)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert one.epochs == two.epochs
    assert not torch.equal(weights[0]["layers.0.weight"], weights[2]["layers.0.weight"])


def test_stops_when_nothing_improves(blobs: Blobs) -> None:
    features, labels = blobs
    random = torch.Generator().manual_seed(0)
    shuffled = [labels[i] for i in torch.randperm(len(labels), generator=random)]
    epochs: list[Epoch] = []
    fit = fit_on(features, shuffled, CONFIG, replace(OPTIONS, epochs=500), epochs.append)
    assert tuple(epochs) == fit.epochs
    assert [epoch.number for epoch in epochs] == list(range(1, len(epochs) + 1))
    assert len(epochs) == fit.best.number + OPTIONS.patience < 500
    losses = [epoch.validation_loss for epoch in epochs if epoch.validation_loss is not None]
    assert fit.best.validation_loss == min(losses)


def test_selected_documents_keep_their_features(blobs: Blobs) -> None:
    features, _ = blobs
    kept = features.select(torch.tensor([0, 3, 20]))
    assert kept.parts.owners.tolist() == [0, 0, 1, 2, 2]
    assert torch.equal(kept.rows[2], features.rows[features.parts.owners == 3][0])


def test_rare_labels_can_count_as_much_as_common_ones() -> None:
    """Nothing tells the two labels apart, and one is nine times as common."""
    features = Features(torch.zeros(200, 16), Parts(torch.arange(200), torch.ones(200)))
    labels = ["a" if number % 10 else "b" for number in range(200)]
    config = replace(CONFIG, layers=(16, 2), labels=("a", "b"), dropout=0.0)
    options = replace(OPTIONS, epochs=60, learning_rate=1e-2, label_smoothing=0.0)
    shares = {}
    for balanced in (False, True):
        fit = fit_on(features, labels, config, replace(options, balanced=balanced))
        shares[balanced] = predict(fit.head, features).softmax(-1).mean(0)[1].item()
    assert shares[False] == pytest.approx(0.1, abs=0.05)
    assert shares[True] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("segments", "slots"), [("sum", 1), ("concatenation", 2)])
def test_segments_can_be_joined_before_the_head(
    blobs: Blobs, segments: Combination, slots: int
) -> None:
    features, labels = blobs
    config = replace(CONFIG, layers=(16 * slots, 8, 3), segments=segments, slots=slots)
    joined = features.join(config)
    assert joined.rows.shape == (240, 16 * slots)
    assert torch.equal(joined.parts.owners, torch.arange(240))
    fit = fit_on(features, labels, config, OPTIONS)
    assert accuracy(fit.head, joined, labels) > 0.9
    assert features.join(CONFIG) is features


def test_independent_labels_are_learned(blobs: Blobs) -> None:
    """Of the three, c comes with a wherever b is not."""
    features, labels = blobs
    sets = [{"a": ("a", "c"), "b": ("b",), "c": ()}[label] for label in labels]
    config = replace(CONFIG, multi_label=True)
    targets = make_targets(sets, config.labels, multi_label=True)
    options = replace(OPTIONS, balanced=True, epochs=60)
    split = split_by_label(targets, 0.1, 0)
    fit = fit_head(features, targets, config, options, split)
    assert fit.best.validation_accuracy is not None
    assert fit.best.validation_accuracy > 0.9
    assert chosen(predict(fit.head, features)).eq(targets).all(1).float().mean() > 0.95


@pytest.mark.parametrize("multi_label", [False, True])
def test_rare_labels_that_count_more_are_still_told_apart(multi_label: bool) -> None:
    """With smoothed targets as well, where a weight must not pull others over."""
    random = torch.Generator().manual_seed(0)
    rare = torch.arange(600) % 33 == 0
    rows = torch.randn(600, 16, generator=random) * 0.5
    rows[rare] += 2
    features = Features(rows, Parts.whole(600))
    config = replace(
        CONFIG, layers=(16, 2), labels=("a", "b"), dropout=0.0, multi_label=multi_label
    )
    sets = [("a", "b") if multi_label else ("b",) if one else ("a",) for one in rare.tolist()]
    if multi_label:
        sets = [own if one else ("a",) for own, one in zip(sets, rare.tolist(), strict=True)]
    targets = make_targets(sets, config.labels, multi_label=multi_label)
    options = replace(OPTIONS, epochs=60, label_smoothing=0.1, balanced=True)
    fit = fit_head(features, targets, config, options, split_by_label(targets, 0.1, 0))
    logits = predict(fit.head, features)
    predicted = chosen(logits)[:, 1] if multi_label else logits.argmax(-1) == 1
    assert predicted.eq(rare).float().mean() > 0.97


def test_a_rate_that_is_too_high_is_said(blobs: Blobs) -> None:
    with pytest.raises(BertstreamError, match="no number any more at step"):
        fit_on(*blobs, CONFIG, replace(OPTIONS, learning_rate=1e30))
