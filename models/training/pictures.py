"""Pictures of training and of evaluation; the only module that needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from models.training.evaluate import Calibration, Evaluation

MOST_NAMED = 40
"""Labels that are written into a confusion matrix; of more, the cells are too small for numbers."""


def plot_curves(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw the losses, the masked accuracy and the learning rate over the steps."""
    steps = [row for row in rows if row["kind"] == "step"]
    validations = [row for row in rows if row["kind"] == "validation"]
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    tokens, sentences, accuracy = figure.subplots(1, 3)
    for axes, name, title in (
        (tokens, "mlm_loss", "masked tokens: loss"),
        (sentences, "nsp_loss", "next sentence: loss"),
    ):
        axes.plot(
            [row["step"] for row in steps], [row[name] for row in steps], lw=0.6, label="training"
        )
        axes.plot(
            [row["step"] for row in validations],
            [row[name] for row in validations],
            marker=".",
            label="held out",
        )
        axes.set(xlabel="step", title=title)
        axes.legend()
    for name, label in (("masked_accuracy", "masked tokens"), ("nsp_accuracy", "next sentence")):
        accuracy.plot(
            [row["step"] for row in validations],
            [row[name] for row in validations],
            marker=".",
            label=label,
        )
    accuracy.set(xlabel="step", title="held out: accuracy", ylim=(0, 1))
    accuracy.legend()
    figure.savefig(file)


def plot_confusion(evaluation: Evaluation, file: Path) -> None:
    """Draw the confusion matrix, each row as shares of the documents that have its label.

    Raises:
        ValueError: the documents may have several labels each.
    """
    counts = evaluation.confusion
    if counts is None:
        raise ValueError("documents of several labels have no confusion matrix")
    names = [scores.label for scores in evaluation.labels]
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    side = min(3 + 0.5 * len(names), 24)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(image, label="share of the documents with the label")
    axes.set(xlabel="predicted", ylabel="expected")
    if len(names) <= MOST_NAMED:
        # A name may hold what matplotlib takes for a formula.
        plain = [name.replace("$", r"\$") for name in names]
        axes.set_xticks(range(len(names)), plain, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), plain)
        for (row, column), count in _cells(counts.tolist()):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour)
    figure.savefig(file)


def plot_calibration(calibration: Calibration, file: Path) -> None:
    """Draw accuracy over confidence; what is calibrated lies on the diagonal."""
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", lw=0.8, ls="--")
    most = max((one.documents for one in calibration.bins), default=1)
    axes.plot(
        [one.confidence for one in calibration.bins],
        [one.accuracy for one in calibration.bins],
        lw=0.8,
    )
    axes.scatter(
        [one.confidence for one in calibration.bins],
        [one.accuracy for one in calibration.bins],
        s=[10 + 150 * one.documents / most for one in calibration.bins],
    )
    axes.set(
        xlabel="probability of the predicted label",
        ylabel="share that was right",
        title=f"expected calibration error {calibration.error:.4f}",
        xlim=(0, 1.02),
        ylim=(0, 1.02),
    )
    figure.savefig(file)


def _cells(rows: list[list[int]]) -> list[tuple[tuple[int, int], int]]:
    return [
        ((row, column), count)
        for row, counts in enumerate(rows)
        for column, count in enumerate(counts)
    ]
