"""A run of training from labelled documents to a classifier's folder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from models.errors import BertstreamError
from models.inference.checkpoint import BUILTIN, Checkpoint, load_encoder
from models.inference.engine import Engine
from models.inference.transformer import Trust
from models.nn.classifier import HeadConfig, Pooling
from models.training.checkpoint import ENCODER_NAME, check_output, make_record, write_classifier
from models.training.evaluate import Evaluation, evaluate
from models.training.finetune import Classifier, TuneOptions, fine_tune
from models.training.fitting import Fit
from models.training.frozen import Features, FitOptions, fit_head
from models.training.labelled import LabelledCorpus
from models.training.segments import SegmentedCorpus, forward_all, segment_corpus


@dataclass(frozen=True, slots=True)
class Steps:
    """Where a stage tells how far it has come."""

    advance: Callable[[int], None] = lambda _: None
    """Takes the steps as they are done."""
    say: Callable[[str], None] = lambda _: None
    """Takes what is being done."""


Stage = Callable[[str, int | None], AbstractContextManager[Steps]]
"""Takes what begins, and its steps where they are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierPlan:
    """What is to be trained, on what."""

    data: Path
    options: FitOptions | TuneOptions
    """`FitOptions`: a head on a frozen encoder."""
    evaluation: Path | None = None
    """Documents to measure the result on."""
    encoder: str = BUILTIN
    pooling: Pooling = "mean"
    normalize: bool = False
    hidden: tuple[int, ...] = ()
    """Widths of the head's hidden layers."""
    activation: str = "gelu"
    dropout: float = 0.1
    """Of the head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a classifier is trained, and what an encoder may do there."""

    device: torch.device
    trust: Trust
    segment_overlap: int


def _silent(_name: str, _total: int | None) -> AbstractContextManager[Steps]:
    return nullcontext(Steps())


def run(
    plan: ClassifierPlan, folder: Path, place: Place, stage: Stage = _silent
) -> tuple[dict[str, Any], Evaluation | None]:
    """Train a classifier, and leave its folder.

    Args:
        folder: a new one.

    Returns:
        The record of the training, and how the evaluation documents were answered.

    Raises:
        BertstreamError: the documents, the encoder or the options are at fault, or the disk
            refuses; nothing is left then.
    """
    check_output(folder)
    corpus = LabelledCorpus.read(plan.data)
    measured = None if plan.evaluation is None else LabelledCorpus.read(plan.evaluation)
    if measured is not None:
        measured.require(corpus.classes)
    corpus.require_several()
    with stage("loading", None) as steps:
        checkpoint = load_encoder(plan.encoder, plan.pooling, trust=place.trust, progress=steps.say)
    engine = Engine(
        checkpoint,
        {place.device: checkpoint.network.to(place.device)},
        name="encoder",
        path=plan.encoder,
        segment_overlap=place.segment_overlap,
    )
    encoder = engine.describe()
    known = segment_corpus(engine, corpus)
    unknown = None if measured is None else segment_corpus(engine, measured)
    frozen = isinstance(plan.options, FitOptions)
    config = HeadConfig(
        encoder=_portable(plan.encoder) if frozen else ENCODER_NAME,
        layers=(engine.forward(known.segments[:1]).shape[1], *plan.hidden, len(corpus.classes)),
        labels=corpus.classes,
        pooling=plan.pooling,
        normalize=plan.normalize,
        activation=plan.activation,
        dropout=plan.dropout,
    )
    try:
        fit = _fit(plan, place, engine, checkpoint, corpus, known, config, stage)
    except ValueError as error:
        raise BertstreamError(f"{plan.encoder}: {error}") from None
    scores = None
    if measured is not None and unknown is not None:
        classifier = Classifier(checkpoint, fit.head, place.device)
        with stage("measuring", len(unknown.segments)) as steps:
            best = classifier.predict(unknown, steps.advance).argmax(-1).tolist()
        scores = evaluate(measured.labels, [config.labels[i] for i in best], config.labels)
    record = {
        "bertstream": version("bertstream"),
        "torch": version("torch"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **make_record(fit, plan.options, encoder, corpus, scores, measured),
    }
    write_classifier(folder, fit.head, record, None if frozen else checkpoint)
    return record, scores


def _fit(
    plan: ClassifierPlan,
    place: Place,
    engine: Engine,
    checkpoint: Checkpoint,
    corpus: LabelledCorpus,
    known: SegmentedCorpus,
    config: HeadConfig,
    stage: Stage,
) -> Fit:
    options = plan.options
    if isinstance(options, FitOptions):
        with stage("encoding", len(known.segments)) as steps:
            rows = forward_all(engine.forward, known.segments, steps.advance)
        with stage("fitting", options.epochs) as steps:
            return fit_head(
                Features(rows, known.parts),
                corpus.labels,
                config,
                options,
                lambda _: steps.advance(1),
            )
    learned = round((1 - options.validation) * len(known.segments))
    with stage("fine-tuning", options.epochs * learned) as steps:
        return fine_tune(
            checkpoint, known, corpus.labels, config, options, place.device, advance=steps.advance
        )


def _portable(encoder: str) -> str:
    """The encoder as it is found from any working directory."""
    folder = Path(encoder).expanduser()
    return str(folder.resolve()) if encoder != BUILTIN and folder.is_dir() else encoder
