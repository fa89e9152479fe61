"""`bertstream train`: a classifier from labelled documents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from app.cli.console import err, print_json, progress
from app.cli.scores import print_scores, print_training
from app.errors import BertstreamError
from app.settings import BUILTIN_MODEL, load_settings

if TYPE_CHECKING:
    from models.training.classifier_run import Copies
    from models.training.stages import Steps


Pooling = Literal["mean", "cls", "pooled"]
Activation = Literal["gelu", "relu", "tanh"]

HEAD: dict[bool, dict[str, Any]] = {
    True: {"normalize": True, "hidden": "256", "dropout": 0.5},
    False: {"normalize": False, "hidden": "none", "dropout": 0.1},
}
"""What the head is like unless it is said, on a frozen encoder and otherwise."""
SEARCH = "Search"
COPIES = "Altered copies of the documents, to learn from too"
LARGEST_SEED = 2**32 - 1


def _rate(what: str) -> Any:
    return typer.Option(min=0, max=1, help=what, rich_help_panel=COPIES)


def train(
    data: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Labelled documents as .jsonl, .csv, .tsv or .parquet."),
    ],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the classifier; a new one.")
    ],
    frozen_encoder: Annotated[
        bool,
        typer.Option(
            "--frozen-encoder", help="Train a head alone: seconds after a pass over the documents."
        ),
    ] = False,
    last_layers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Train the encoder's last N layers and the head."),
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option("--eval", metavar="FILE", help="Documents to measure the result on."),
    ] = None,
    encoder: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="`builtin`, a checkpoint folder or a hub id with optional @revision.",
        ),
    ] = BUILTIN_MODEL,
    pooling: Annotated[
        Pooling, typer.Option(help="How tokens become one vector; pooled: the encoder's own way.")
    ] = "mean",
    normalize: Annotated[
        bool | None,
        typer.Option(
            "--normalize/--no-normalize",
            help="Scale that vector to length 1.  (default: if frozen)",
        ),
    ] = None,
    hidden: Annotated[
        str | None,
        typer.Option(
            metavar="N,...",
            help="Widths of the head's hidden layers, or none.  (default: none; frozen: 256)",
        ),
    ] = None,
    segments: Annotated[
        Literal["average", "sum", "concatenation"],
        typer.Option(
            help="Of long documents: average their predictions, or join what the encoder gives."
        ),
    ] = "average",
    slots: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Segments that a concatenation tells apart. (default: 4)"
        ),
    ] = None,
    activation: Annotated[Activation, typer.Option(help="After a hidden layer.")] = "gelu",
    dropout: Annotated[
        float | None,
        typer.Option(min=0, max=0.99, help="Of the head.  (default: 0.1; frozen: 0.5)"),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(min=1e-9, help="The highest.  (default: 5e-5; frozen: 1e-3)"),
    ] = None,
    head_learning_rate: Annotated[
        float | None,
        typer.Option(min=1e-9, help="Another one for the head; not with --frozen-encoder."),
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0, help="(default: 0.01)")] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(min=0, max=0.99, help="(default: 0; frozen: 0.1)")
    ] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Let rare labels count as much as common ones.")
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Segments of one step, or documents if joined.  (default: 32; frozen: 64)",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Most passes over the documents.  (default: 3; frozen: 60)"),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1, help="Passes without improvement that end it.  (default: 2; frozen: 8)"
        ),
    ] = None,
    validation: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.5,
            help="Share of each label held out to choose the best pass; 0, not with "
            "--frozen-encoder: take the last.",
        ),
    ] = 0.1,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"] | None,
        typer.Option(
            help="auto: bfloat16 where the hardware computes it. (default: auto; frozen: float32)"
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Of all that is drawn at random.")
    ] = 0,
    trials: Annotated[
        int,
        typer.Option(
            "--search",
            min=0,
            metavar="N",
            help="Try the options that are not given in N ways first, and take the best.",
            rich_help_panel=SEARCH,
        ),
    ] = 0,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="K",
            help="Judge options by cross-validation in K parts.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    copies: Annotated[
        int, typer.Option(min=0, metavar="N", help="Of each document.", rich_help_panel=COPIES)
    ] = 0,
    minimum: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Documents of each label, copies included.",
            rich_help_panel=COPIES,
        ),
    ] = 0,
    synonyms: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Words that stand for each other: a group a line, commas between them.",
            rich_help_panel=COPIES,
        ),
    ] = None,
    synonym_rate: Annotated[
        float | None, _rate("Share of the words with synonyms. (default: 0.1)")
    ] = None,
    deletion_rate: Annotated[
        float | None, _rate("Share of the words that go. (default: 0.1)")
    ] = None,
    swap_rate: Annotated[
        float | None, _rate("Share that changes places with the next. (default: 0.1)")
    ] = None,
    noise_rate: Annotated[float | None, _rate("Share that is misspelt. (default: 0)")] = None,
    unknown_rate: Annotated[
        float | None, _rate("Share that becomes the unknown token. (default: 0)")
    ] = None,
    mask_rate: Annotated[float | None, _rate("Share that becomes the mask. (default: 0)")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the record of the training as one JSON object.")
    ] = False,
) -> None:
    """Train a classifier on labelled documents: an encoder with a head, or the head alone.

    Part of the documents is held out to find the best pass over the others, whose weights are
    kept. With --frozen-encoder every document is encoded once, and the head is then trained for as
    many passes on all documents. Documents with `labels` in the place of a `label` may have any
    number of them.
    """
    from models.inference.device import choose_devices
    from models.inference.transformer import Trust
    from models.training.classifier_run import ClassifierPlan, Place, run
    from models.training.finetune import TuneOptions
    from models.training.frozen import FitOptions

    whole = {
        "--last-layers": last_layers,
        "--head-learning-rate": head_learning_rate,
        "--precision": precision,
    }
    if frozen_encoder and (useless := list(_given(whole))):
        raise typer.BadParameter(
            f"--frozen-encoder trains nothing but the head: leave {', '.join(useless)} out"
        )
    if slots is not None and segments != "concatenation":
        raise typer.BadParameter("--slots are those of --segments concatenation")
    if frozen_encoder and not validation:
        raise typer.BadParameter("--validation 0 is not for --frozen-encoder")
    if trials and not validation and folds is None:
        raise typer.BadParameter(
            "--search with --validation 0 has nothing to judge by: add --folds"
        )
    head = HEAD[frozen_encoder]
    widths = _widths(head["hidden"] if hidden is None else hidden)
    settings = load_settings()
    given: dict[str, Any] = {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "batch_size": batch_size,
        "epochs": epochs,
        "patience": patience,
    }
    given = _given(given)
    shared: dict[str, Any] = {"balanced": balanced, "validation": validation, "seed": seed}
    options: FitOptions | TuneOptions = (
        FitOptions(**given, **shared)
        if frozen_encoder
        else TuneOptions(
            **given,
            **shared,
            head_learning_rate=head_learning_rate,
            last_layers=last_layers,
            precision=precision or "auto",
        )
    )
    plan = ClassifierPlan(
        data=data,
        options=options,
        evaluation=evaluation,
        encoder=encoder,
        pooling=pooling,
        normalize=head["normalize"] if normalize is None else normalize,
        hidden=tuple(widths),
        activation=activation,
        dropout=head["dropout"] if dropout is None else dropout,
        segments=segments,
        slots=slots or 4,
        copies=_copies(
            copies,
            minimum,
            synonyms,
            _given(
                {
                    "synonym_rate": synonym_rate,
                    "deletion_rate": deletion_rate,
                    "swap_rate": swap_rate,
                    "noise_rate": noise_rate,
                    "unknown_rate": unknown_rate,
                    "mask_rate": mask_rate,
                }
            ),
        ),
        trials=trials,
        folds=folds,
        fixed=frozenset({*given, *_given({"hidden": hidden, "dropout": dropout})}),
    )
    place = Place(
        device=choose_devices(settings.device)[0],
        trust=Trust(remote_code=settings.trust_remote_code, pickle=settings.allow_pickle),
        segment_overlap=settings.segment_overlap,
    )
    try:
        record, scores = run(plan, output, place, _stage)
    except KeyboardInterrupt:
        raise BertstreamError(f"stopped; nothing is left of {output}") from None
    if as_json:
        print_json(record)
        return
    if scores is not None:
        print_scores(scores)
        if repeated := record["evaluation"]["also_learned"]:
            remark = f"{repeated:,} of these documents are in {data} too: the scores flatter"
            err.print(remark, markup=False)
    print_training(record, output)


@contextmanager
def _stage(name: str, total: int | None) -> Iterator[Steps]:
    """Show progress."""
    from models.training.stages import Steps

    with progress(total) as display:
        task = display.add_task(name, total=total)
        yield Steps(
            advance=lambda steps: display.advance(task, steps),
            say=lambda text: display.update(task, description=text),
        )


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Those that were said."""
    return {name: value for name, value in options.items() if value is not None}


def _copies(
    of_each: int, minimum: int, synonyms: Path | None, rates: dict[str, float]
) -> Copies | None:
    from models.training.classifier_run import Copies

    if "synonym_rate" in rates and synonyms is None:
        raise typer.BadParameter("--synonym-rate is of --synonyms FILE: give both")
    if of_each or minimum:
        return Copies(of_each=of_each, minimum=minimum, synonyms=synonyms, rates=rates)
    if rates or synonyms is not None:
        raise typer.BadParameter("no copies are made: add --copies or --minimum")
    return None


def _widths(hidden: str) -> list[int]:
    if hidden.strip().lower() == "none":
        return []
    try:
        widths = [int(width) for width in hidden.split(",")]
    except ValueError:
        widths = [0]
    if min(widths) < 1:
        raise typer.BadParameter(f"--hidden {hidden}: give widths such as 256 or 256,128, or none")
    return widths
