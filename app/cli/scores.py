"""Evaluations, comparisons and trainings as a reader wants them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from app.cli.console import add_row, out, table
from app.printable import printable

if TYPE_CHECKING:
    from models.training.compare import Comparison, EmbeddingComparison
    from models.training.evaluate import Evaluation


def print_scores(evaluation: Evaluation) -> None:
    """Show the scores of each label, the confusion matrix if there is one, the scores of all."""
    scores = table("label", "precision#", "recall#", "F1#", "documents#")
    for label in evaluation.labels:
        numbers = (f"{value:.4f}" for value in (label.precision, label.recall, label.f1))
        add_row(scores, label.label, *numbers, f"{label.documents:,}")
    out.print(scores)
    out.print()
    if evaluation.confusion is not None:
        names = [label.label for label in evaluation.labels]
        columns = (f"{escape(printable(name))}#" for name in names)
        confusion = table("expected \\ predicted", *columns)
        for name, row in zip(names, evaluation.confusion.tolist(), strict=True):
            add_row(confusion, name, *(f"{count:,}" for count in row))
        out.print(confusion)
        out.print()
    micro, calibration = evaluation.micro_f1, evaluation.calibration
    out.print(
        f"{'accuracy' if micro is None else 'all labels right'} {evaluation.accuracy:.4f}   "
        f"macro F1 {evaluation.macro_f1:.4f}   weighted F1 {evaluation.weighted_f1:.4f}   "
        + ("" if micro is None else f"micro F1 {micro:.4f}   ")
        + ("" if calibration is None else f"calibration error {calibration.error:.4f}   ")
        + f"{evaluation.documents:,} documents"
    )


def print_comparison(compared: Comparison) -> None:
    """Say which of two models was right more often, and whether that may be chance."""
    out.print(
        f"right alone: the first {compared.only_first:,} times, the second "
        f"{compared.only_second:,} times"
    )
    out.print(
        f"accuracy of the first less that of the second {compared.difference:+.4f} (95 %: "
        f"{compared.low:+.4f} to {compared.high:+.4f}; McNemar's exact test: "
        f"p = {compared.p_value:.3g})"
    )


def print_embeddings(compared: EmbeddingComparison, first: str, second: str) -> None:
    """Say how far two models see the same likeness between documents."""
    rows = table("embeddings of the same documents", "#")
    add_row(rows, "documents", f"{compared.documents:,}")
    add_row(rows, "likeness (linear CKA, 0 to 1)", f"{compared.cka:.4f}")
    if compared.cosine is not None:
        add_row(rows, "mean cosine of a document's two embeddings", f"{compared.cosine:.4f}")
    add_row(rows, f"of the {compared.neighbours} nearest, shared", f"{compared.shared:.4f}")
    if compared.same_label is not None:
        for name, share in zip((first, second), compared.same_label, strict=True):
            add_row(rows, f"of these, with the document's label: {name}", f"{share:.4f}")
    out.print(rows)


def print_training(record: Mapping[str, Any], folder: Path) -> None:
    """Say what was tried before, which pass was kept, and how it did."""
    if (search := record.get("search")) is not None:
        best = search["trials"][search["best"] - 1]
        options = ", ".join(
            f"{name.replace('_', '-')} "
            + (f"{value:.3g}" if isinstance(value, float) else str(value))
            for name, value in best["options"].items()
        )
        out.print(
            f"trial {search['best']} of {len(search['trials'])} was the best, loss "
            f"{best['loss']:.4f}, accuracy {best['accuracy']:.4f}: {options}",
            markup=False,
        )
    if (crossed := record.get("cross_validation")) is not None:
        out.print(
            f"cross-validated in {crossed['folds']} parts: accuracy {crossed['accuracy']:.4f} "
            f"(standard error {crossed['standard_error']:.4f})",
            markup=False,
        )
    kept = record["best"]
    found = (
        f"; accuracy {kept['validation_accuracy']:.4f} on the {record['held_out']:,} documents "
        "that were held out to find this number"
        if record["held_out"]
        else ""
    )
    out.print(f"{folder}: {kept['number']} epochs{found}", markup=False)
