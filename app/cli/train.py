"""`bertstream train`: a classifier from labelled documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from app.cli.console import err, out, print_json, progress
from app.cli.scores import print_scores
from app.settings import BUILTIN_MODEL, Settings, load_settings

if TYPE_CHECKING:
    from models.inference.engine import Engine

Pooling = Literal["mean", "cls", "pooled"]
Activation = Literal["gelu", "relu", "tanh"]


def train(
    data: Annotated[
        Path, typer.Option(metavar="FILE", help="Labelled documents as .jsonl, .csv or .tsv.")
    ],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the classifier; a new one.")
    ],
    frozen_encoder: Annotated[
        bool,
        typer.Option("--frozen-encoder", help="Train a head and leave the encoder as it is."),
    ] = False,
    evaluation: Annotated[
        Path | None,
        typer.Option("--eval", metavar="FILE", help="Documents to measure the result on."),
    ] = None,
    encoder: Annotated[
        str,
        typer.Option(metavar="PATH", help="`builtin`, a checkpoint folder or a hub id[@revision]."),
    ] = BUILTIN_MODEL,
    pooling: Annotated[
        Pooling, typer.Option(help="How tokens become one vector; pooled: the encoder's own way.")
    ] = "mean",
    normalize: Annotated[
        bool, typer.Option("--normalize/--no-normalize", help="Scale that vector to length 1.")
    ] = True,
    hidden: Annotated[
        str, typer.Option(metavar="N,...", help="Widths of the hidden layers, or none.")
    ] = "256",
    activation: Annotated[Activation, typer.Option(help="After a hidden layer.")] = "gelu",
    dropout: Annotated[float, typer.Option(min=0, max=0.99)] = 0.5,
    learning_rate: Annotated[float, typer.Option(min=1e-9)] = 1e-3,
    weight_decay: Annotated[float, typer.Option(min=0)] = 0.01,
    label_smoothing: Annotated[float, typer.Option(min=0, max=0.99)] = 0.1,
    batch_size: Annotated[int, typer.Option(min=1, help="Segments of one step.")] = 64,
    epochs: Annotated[int, typer.Option(min=1, help="Most passes over the documents.")] = 60,
    patience: Annotated[
        int, typer.Option(min=1, help="Passes without improvement that end the search.")
    ] = 8,
    validation: Annotated[
        float,
        typer.Option(min=0.01, max=0.5, help="Share of each label held out for that search."),
    ] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn at random.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the record of the training as one JSON object.")
    ] = False,
) -> None:
    """Train a classifier on labelled documents: a fully connected head on a frozen encoder.

    Every document is encoded once. Part of the documents is held out to find the best number of
    passes; the head is then trained for as many on all of them.
    """
    if not frozen_encoder:
        raise typer.BadParameter(
            "fine-tuning a whole model is not there yet; add --frozen-encoder to train a head"
        )
    from models.nn.classifier import HeadConfig
    from models.training.checkpoint import check_output, make_record, write_head
    from models.training.evaluate import evaluate
    from models.training.features import encode_corpus
    from models.training.frozen import FitOptions, fit_head, predict
    from models.training.labelled import LabelledCorpus

    widths = _widths(hidden)
    settings = load_settings()
    check_output(output)
    corpus = LabelledCorpus.read(data)
    measured = None if evaluation is None else LabelledCorpus.read(evaluation)
    if measured is not None:
        measured.require(corpus.classes)
    options = FitOptions(
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        batch_size=batch_size,
        epochs=epochs,
        patience=patience,
        validation=validation,
        seed=seed,
    )
    corpus.require_several()
    total = len(corpus.documents) + (0 if measured is None else len(measured.documents))
    with _engine(encoder, pooling, settings) as engine, _steps("encoding", total) as advance:
        features = encode_corpus(engine, corpus, advance)
        measured_features = None if measured is None else encode_corpus(engine, measured, advance)
    config = HeadConfig(
        encoder=_portable(encoder),
        layers=(features.rows.shape[1], *widths, len(corpus.classes)),
        labels=corpus.classes,
        pooling=pooling,
        normalize=normalize,
        activation=activation,
        dropout=dropout,
    )
    with _steps("fitting", epochs) as advance:
        fit = fit_head(features, corpus.labels, config, options, lambda _: advance(1))
    scores = None
    if measured is not None and measured_features is not None:
        best = predict(fit.head, measured_features).argmax(-1).tolist()
        scores = evaluate(measured.labels, [config.labels[i] for i in best], config.labels)
    record = {
        "bertstream": version("bertstream"),
        "torch": version("torch"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **make_record(fit, options, engine.describe(), corpus, scores, measured),
    }
    write_head(output, fit.head, record)
    if as_json:
        print_json(record)
        return
    if scores is not None:
        print_scores(scores)
        if repeated := record["evaluation"]["also_learned"]:
            remark = f"{repeated:,} of these documents are in {data} too: the scores flatter"
            err.print(remark, markup=False)
    out.print(
        f"{output}: {fit.best.number} epochs; accuracy {fit.best.validation_accuracy:.4f} on the "
        f"{fit.held_out:,} documents that were held out to find this number",
        markup=False,
    )


@contextmanager
def _engine(spec: str, pooling: Pooling, settings: Settings) -> Iterator[Engine]:
    """The encoder in float32, on the first device of the settings."""
    with progress() as display:
        task = display.add_task("loading")
        from models.inference.checkpoint import load_encoder
        from models.inference.device import choose_devices
        from models.inference.engine import Engine
        from models.inference.transformer import Trust

        device = choose_devices(settings.device)[0]
        checkpoint = load_encoder(
            spec,
            pooling,
            trust=Trust(remote_code=settings.trust_remote_code, pickle=settings.allow_pickle),
            progress=lambda message: display.update(task, description=message),
        )
    engine = Engine(
        checkpoint,
        {device: checkpoint.network.to(device)},
        name="encoder",
        path=spec,
        segment_overlap=settings.segment_overlap,
    )
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def _steps(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show progress; gives what to call with the number of steps done."""
    with progress(total) as display:
        task = display.add_task(name, total=total)
        yield lambda steps: display.advance(task, steps)


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


def _portable(encoder: str) -> str:
    """The encoder as it is found from any working directory."""
    folder = Path(encoder).expanduser()
    return str(folder.resolve()) if encoder != BUILTIN_MODEL and folder.is_dir() else encoder
