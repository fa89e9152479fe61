"""An evaluation as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from app.cli.console import add_row, out, table
from app.printable import printable

if TYPE_CHECKING:
    from models.training.evaluate import Evaluation


def print_scores(evaluation: Evaluation) -> None:
    """Show the scores of each label, the confusion matrix and the scores of all."""
    scores = table("label", "precision#", "recall#", "F1#", "documents#")
    for label in evaluation.labels:
        numbers = (f"{value:.4f}" for value in (label.precision, label.recall, label.f1))
        add_row(scores, label.label, *numbers, f"{label.documents:,}")
    out.print(scores)
    out.print()
    names = [label.label for label in evaluation.labels]
    confusion = table("expected \\ predicted", *(f"{escape(printable(name))}#" for name in names))
    for name, row in zip(names, evaluation.confusion.tolist(), strict=True):
        add_row(confusion, name, *(f"{count:,}" for count in row))
    out.print(confusion)
    out.print()
    out.print(
        f"accuracy {evaluation.accuracy:.4f}   macro F1 {evaluation.macro_f1:.4f}   "
        f"weighted F1 {evaluation.weighted_f1:.4f}   {evaluation.documents:,} documents"
    )
