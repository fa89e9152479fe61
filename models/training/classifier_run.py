"""A run of training from labelled documents to a classifier's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from models.errors import BertstreamError, CorpusError
from models.folders import check_output
from models.inference.checkpoint import BUILTIN, load_encoder
from models.inference.engine import Engine
from models.inference.transformer import Trust
from models.nn.classifier import Combination, HeadConfig, Pooling
from models.text.augmentation import RATES, Augmentation, Copy, augment, read_synonyms
from models.text.corpora import file_facts
from models.text.tokenizer import Tokenizer
from models.training.checkpoint import ENCODER_NAME, make_record, write_classifier
from models.training.classifier_training import ClassifierTraining, Material
from models.training.evaluate import Evaluation, evaluate, evaluate_sets
from models.training.finetune import TuneOptions
from models.training.frozen import FitOptions
from models.training.labelled import LabelledCorpus
from models.training.objective import chosen, make_targets
from models.training.segments import segment_corpus
from models.training.stages import Stage, silent


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
    segments: Combination = "average"
    slots: int = 4
    """Of a concatenation."""
    copies: Copies | None = None
    """What is learned from besides the documents."""
    folds: int | None = None
    """Parts in which the documents are to be cross-validated; None: they are not."""
    trials: int = 0
    """Options that are tried first, the best of which are taken."""
    fixed: frozenset[str] = frozenset()
    """Names of options that are not to be searched for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """How many altered copies of the documents are made, and how they are altered."""

    of_each: int = 0
    minimum: int = 0
    """Documents of each label, copies included."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Of `Augmentation`, by name."""
    synonyms: Path | None = None
    """A list of them; see `read_synonyms`."""

    def augmentation(
        self, tokenizer: Tokenizer, synonyms: Mapping[str, tuple[str, ...]]
    ) -> Augmentation:
        """How they are altered, in the tokens of an encoder.

        Raises:
            BertstreamError: a rate cannot be, or the encoder lacks the token that it is of.
        """
        try:
            return Augmentation(
                synonyms=synonyms,
                unknown_token=tokenizer.unknown_token,
                mask_token=tokenizer.mask_token,
                **self.rates,
            )
        except ValueError as error:
            raise BertstreamError(str(error)) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a classifier is trained, and what an encoder may do there."""

    device: torch.device
    trust: Trust
    segment_overlap: int


def run(
    plan: ClassifierPlan, folder: Path, place: Place, stage: Stage = silent
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
    corpus.require_several()
    measured = None if plan.evaluation is None else _read_measured(plan.evaluation, corpus)
    listed = None if plan.copies is None else plan.copies.synonyms
    synonyms = {} if listed is None else read_synonyms(listed)
    listed_facts = None if listed is None else file_facts(listed)
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
    copies: dict[str, Any] | None = None
    if plan.copies is None:
        material = _material(engine, corpus, [])
    else:
        augmentation = plan.copies.augmentation(checkpoint.tokenizer, synonyms)
        made = _augment(corpus, plan.copies, augmentation, plan.options.seed)
        material = _material(engine, corpus, made)
        copies = {
            "of_each": plan.copies.of_each,
            "minimum": plan.copies.minimum,
            "made": len(made),
            **{name: getattr(augmentation, name) for name in RATES},
            "synonyms": listed_facts,
        }
    measured_segments = None if measured is None else segment_corpus(engine, measured)
    width = engine.forward(material.corpus.segments[:1]).shape[1]
    config = _head(plan, width, corpus)
    training = ClassifierTraining(checkpoint, engine, material, place.device, stage)
    options = plan.options
    facts: dict[str, Any] = {}
    if plan.trials:
        from models.training.search import search

        options, config, facts["search"] = search(
            training, options, config, plan.trials, plan.folds, plan.fixed
        )
    elif plan.folds is not None:
        facts["cross_validation"] = training.cross_validate(options, config, plan.folds).facts()
    fit = training.fit(options, config)
    scores = None
    if measured is not None and measured_segments is not None:
        logits = training.predict(fit.head, measured_segments, "measuring")
        scores = _evaluate(measured, logits, config.labels)
    record = {
        "bertstream": version("bertstream"),
        "torch": version("torch"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **make_record(fit, options, encoder, corpus, scores, measured),
        "copies": copies,
        **facts,
    }
    frozen = isinstance(options, FitOptions)
    write_classifier(folder, fit.head, record, None if frozen else checkpoint)
    return record, scores


def _read_measured(path: Path, corpus: LabelledCorpus) -> LabelledCorpus:
    """Documents to measure on, with labels like those that are learned from.

    Raises:
        CorpusError: they cannot be read, or have other labels.
    """
    measured = LabelledCorpus.read(path)
    if measured.multi_label != corpus.multi_label:
        names = ("label", "labels")
        raise CorpusError(
            f"{path}: its documents have `{names[measured.multi_label]}`, those of {corpus.path} "
            f"have `{names[corpus.multi_label]}`"
        )
    measured.require(corpus.classes)
    return measured


def _augment(
    corpus: LabelledCorpus, copies: Copies, augmentation: Augmentation, seed: int
) -> list[Copy]:
    return augment(
        [document.text for document in corpus.documents],
        corpus.labels,
        augmentation,
        minimum=copies.minimum,
        copies=copies.of_each,
        seed=seed,
    )


def _material(engine: Engine, corpus: LabelledCorpus, copies: Sequence[Copy]) -> Material:
    """The documents, and their copies behind them, as the training takes them."""
    whole = corpus.with_copies(copies)
    return Material(
        segment_corpus(engine, whole),
        make_targets(whole.labels, corpus.classes, multi_label=corpus.multi_label),
        torch.tensor([*range(len(corpus.documents)), *(copy.origin for copy in copies)]),
    )


def _head(plan: ClassifierPlan, width: int, corpus: LabelledCorpus) -> HeadConfig:
    slots = plan.slots if plan.segments == "concatenation" else 1
    frozen = isinstance(plan.options, FitOptions)
    return HeadConfig(
        encoder=_portable(plan.encoder) if frozen else ENCODER_NAME,
        layers=(slots * width, *plan.hidden, len(corpus.classes)),
        labels=corpus.classes,
        pooling=plan.pooling,
        normalize=plan.normalize,
        activation=plan.activation,
        dropout=plan.dropout,
        multi_label=corpus.multi_label,
        segments=plan.segments,
        slots=slots,
    )


def _evaluate(measured: LabelledCorpus, logits: torch.Tensor, labels: Sequence[str]) -> Evaluation:
    if measured.multi_label:
        sets = [
            [label for label, has in zip(labels, row, strict=True) if has]
            for row in chosen(logits).tolist()
        ]
        return evaluate_sets(measured.labels, sets, labels)
    best = [labels[number] for number in logits.argmax(-1).tolist()]
    return evaluate([label for (label,) in measured.labels], best, labels)


def _portable(encoder: str) -> str:
    """The encoder as it is found from any working directory."""
    folder = Path(encoder).expanduser()
    return str(folder.resolve()) if encoder != BUILTIN and folder.is_dir() else encoder
