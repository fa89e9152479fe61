"""Classifiers of the same documents on the same encoder, under one set of options or many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from models.errors import BertstreamError
from models.inference.checkpoint import Checkpoint
from models.inference.engine import Engine
from models.nn.classifier import ClassifierHead, HeadConfig
from models.training.finetune import Classifier, TuneOptions, fine_tune
from models.training.fitting import Epoch, Fit
from models.training.frozen import Features, FitOptions, fit_head
from models.training.objective import judge
from models.training.segments import SegmentedCorpus, forward_all
from models.training.splits import folds_by_label, split_by_label
from models.training.stages import Stage

Report = Callable[[Epoch], None]


@dataclass(frozen=True, slots=True)
class Material:
    """Documents and their copies, numbered from 0."""

    corpus: SegmentedCorpus
    targets: Tensor
    """See `objective`."""
    origins: Tensor
    """The document that each was made from (n,); its own number for one that is no copy."""

    @property
    def copies(self) -> int:
        """Documents that are copies of others."""
        return int((self.origins != torch.arange(len(self.origins))).sum())

    def select(self, documents: Tensor) -> Material:
        """Keep the documents of these numbers (n,), ascending; they are numbered anew."""
        return Material(
            self.corpus.select(documents),
            self.targets[documents],
            torch.searchsorted(documents, self.origins[documents]),
        )


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """How options do on parts of the documents that were not learned from."""

    losses: tuple[float, ...]
    """Cross-entropy of each part."""
    accuracies: tuple[float, ...]

    @property
    def loss(self) -> float:
        """Mean of the parts."""
        return fmean(self.losses)

    def facts(self) -> dict[str, Any]:
        """All of it as JSON takes it, with the standard error of the mean accuracy."""
        return {
            "folds": len(self.losses),
            "accuracy": fmean(self.accuracies),
            "standard_error": stdev(self.accuracies) / len(self.accuracies) ** 0.5,
            "loss": self.loss,
            "accuracies": self.accuracies,
            "losses": self.losses,
        }


class ClassifierTraining:
    """Trains classifiers, each from the same beginning.

    Args:
        engine: of the checkpoint.
        material: all that may be learned from.
        stage: is told what is being done.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        engine: Engine,
        material: Material,
        device: torch.device,
        stage: Stage,
    ) -> None:
        self._checkpoint = checkpoint
        self._engine = engine
        self._material = material
        self._device = device
        self._stage = stage
        self._features: Features | None = None
        self._begin: dict[str, Tensor] | None = None

    def fit(
        self,
        options: FitOptions | TuneOptions,
        config: HeadConfig,
        documents: Tensor | None = None,
        *,
        what: str = "",
        report: Report = lambda _: None,
        refit: bool = True,
    ) -> Fit:
        """Train a classifier; the encoder of one that is fine-tuned is the checkpoint's.

        Args:
            documents: numbers of those that it may learn from (n,), ascending; None: all.
            what: is being trained, for whoever waits.
            report: called after each pass.
            refit: see `fit_head`.

        Raises:
            BertstreamError: the loss is no number any more, the memory does not suffice, no label
                has two documents, or the encoder has no such layers.
        """
        material = self._material if documents is None else self._material.select(documents)
        try:
            split = split_by_label(
                material.targets, options.validation, options.seed, material.origins
            )
        except ValueError as error:
            raise BertstreamError(f"{what}nothing can be held out: {error}") from None
        if isinstance(options, FitOptions):
            features = self._encoded() if documents is None else self._encoded().select(documents)
            with self._stage(f"{what}fitting", options.epochs) as steps:

                def passed(epoch: Epoch) -> None:
                    steps.advance(1)
                    report(epoch)

                return fit_head(
                    features, material.targets, config, options, split, passed, refit=refit
                )
        self._restore()
        _, learned = material.corpus.parts.select(split.training)
        with self._stage(f"{what}fine-tuning", options.epochs * len(learned)) as steps:
            return fine_tune(
                self._checkpoint,
                material.corpus,
                material.targets,
                config,
                options,
                split,
                self._device,
                report,
                steps.advance,
            )

    def predict(self, head: ClassifierHead, corpus: SegmentedCorpus, what: str) -> Tensor:
        """Logits of documents (n_documents, n_labels), by the encoder as it is and a head."""
        classifier = Classifier(self._checkpoint, head, self._device)
        with self._stage(what, len(corpus.segments)) as steps:
            return classifier.predict(corpus, steps.advance)

    def cross_validate(
        self,
        options: FitOptions | TuneOptions,
        config: HeadConfig,
        folds: int,
        *,
        what: str = "",
        report: Callable[[int, CrossValidation], None] = lambda *_: None,
    ) -> CrossValidation:
        """Train on all but one part of the documents, measure on that one, for each part.

        Where a share of the documents is to judge which pass is kept, it is one of those that are
        learned from: what is measured on is looked at once.

        Args:
            report: called after each part with its number from 1, and all parts so far.

        Raises:
            BertstreamError: see `fit`; or there are fewer documents than parts.
        """
        material = self._material
        if folds > len(material.targets) - material.copies:
            raise BertstreamError(f"there are fewer documents than {folds} parts")
        found = CrossValidation((), ())
        parts = folds_by_label(material.targets, folds, options.seed, material.origins)
        for number, fold in enumerate(parts, 1):
            part = f"{what}part {number} of {folds}, "
            fit = self.fit(options, config, fold.training, what=part)
            held_out = material.select(fold.validation)
            logits = self.predict(fit.head, held_out.corpus, f"{part}measuring")
            loss, accuracy = judge(logits, held_out.targets)
            assert loss is not None
            assert accuracy is not None
            found = CrossValidation((*found.losses, loss), (*found.accuracies, accuracy))
            report(number, found)
        return found

    def _encoded(self) -> Features:
        """What the frozen encoder gives for all documents."""
        if self._features is None:
            segments = self._material.corpus.segments
            with self._stage("encoding", len(segments)) as steps:
                rows = forward_all(self._engine.forward, segments, steps.advance)
            self._features = Features(rows, self._material.corpus.parts)
        return self._features

    def _restore(self) -> None:
        """Give the encoder the weights that it had at first."""
        weights = self._checkpoint.model.state_dict()
        if self._begin is None:
            self._begin = {name: weight.cpu().clone() for name, weight in weights.items()}
        else:
            self._checkpoint.model.load_state_dict(self._begin)
            self._checkpoint.model.zero_grad()  # a training that failed has left its own
