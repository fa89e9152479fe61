"""Fit a fully connected classifier head on the features of a frozen encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.nn.classifier import ClassifierHead, HeadConfig, join_segments
from models.training.fitting import Epoch, Fit, require_finite
from models.training.objective import balanced_weights, judge, losses
from models.training.segments import Parts
from models.training.splits import Split


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """How a head is fitted; the defaults were chosen by cross-validation."""

    learning_rate: float = 1e-3
    """Of AdamW at its highest; it warms up for one epoch, then stays."""
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    balanced: bool = False
    """Whether rare labels count as much as common ones; see `balanced_weights`."""
    batch_size: int = 64
    """Segments of one step."""
    epochs: int = 60
    """Most passes over the documents."""
    patience: int = 8
    """Passes without a lower validation loss after which fitting ends."""
    averaging: float = 0.99
    """Decay, by step, of the moving average of the weights, which is what is kept."""
    validation: float = 0.1
    """Share of each label's documents that judges when to stop; see `split_by_label`."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Features:
    """What an encoder gives for documents: the pooled outputs of their segments."""

    rows: Tensor
    """(n_segments, d_model) in float32 on the CPU."""
    parts: Parts

    def select(self, documents: Tensor) -> Features:
        """Keep the documents of these numbers (n,), ascending; they are numbered anew."""
        parts, kept = self.parts.select(documents)
        return Features(self.rows[kept], parts)

    def join(self, config: HeadConfig) -> Features:
        """One row for each document, where the head is to be given it at once."""
        if not config.joins_segments:
            return self
        count = len(self.parts)
        return Features(
            join_segments(self.rows, self.parts.owners, count, config), Parts.whole(count)
        )


def fit_head(
    features: Features,
    targets: Tensor,
    config: HeadConfig,
    options: FitOptions,
    split: Split,
    report: Callable[[Epoch], None] = lambda _: None,
    *,
    refit: bool = True,
) -> Fit:
    """Fit a head: find the best number of epochs on a validation split, then refit on everything.

    The same features, options and seed give the same head on the same machine.

    Args:
        features: of n documents.
        targets: see `objective`.
        report: called after each epoch.
        refit: or else the head is that of the last epoch on what is learned from.

    Raises:
        BertstreamError: the loss is no number any more.
    """
    with _single_thread():
        return _fit(features.join(config), targets, config, options, split, report, refit=refit)


@contextmanager
def _single_thread() -> Iterator[None]:
    """Compute on one thread: faster for layers this small, and the same on any number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fit(
    features: Features,
    targets: Tensor,
    config: HeadConfig,
    options: FitOptions,
    split: Split,
    report: Callable[[Epoch], None],
    *,
    refit: bool,
) -> Fit:
    known, held_out = features.select(split.training), features.select(split.validation)
    epochs: list[Epoch] = []
    best: Epoch | None = None
    course = _Course(known, targets[split.training], config, options)
    while len(epochs) < options.epochs:
        training_loss = course.run_epoch()
        judged = judge(predict(course.head(), held_out), targets[split.validation])
        epoch = Epoch(len(epochs) + 1, training_loss, *judged)
        epochs.append(epoch)
        report(epoch)
        if epoch.improves_on(best):
            best = epoch
        elif best is not None and epoch.number - best.number >= options.patience:
            break
    assert best is not None
    if refit:
        course = _Course(features, targets, config, options)
        for _ in range(best.number):
            course.run_epoch()
    return Fit(course.head(), tuple(epochs), best, len(split.validation))


@torch.inference_mode()
def predict(head: ClassifierHead, features: Features) -> Tensor:
    """Logits of documents (n_documents, n_labels), as in serving."""
    return features.parts.average(head(features.rows))


class _Course:
    """One course of training. Inputs are standardised, which ends up in the first layer."""

    def __init__(
        self, features: Features, targets: Tensor, config: HeadConfig, options: FitOptions
    ) -> None:
        self._config = config
        self._options = options
        rows = F.normalize(features.rows, dim=-1) if config.normalize else features.rows
        self._mean = rows.mean(0)  # (d_model,)
        self._deviation = rows.std(0, correction=0).clamp(min=1e-6)
        self._rows = (rows - self._mean) / self._deviation
        self._shares = features.parts.shares
        self._targets = targets[features.parts.owners]  # (n_segments,)
        self._weights = balanced_weights(targets, len(config.labels)) if options.balanced else None
        self._random = torch.Generator().manual_seed(options.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self._network = ClassifierHead(replace(config, normalize=False))
            self._dropout_state = torch.get_rng_state()
        self._averaged = torch.optim.swa_utils.AveragedModel(
            self._network,
            avg_fn=self._average,
        )
        self._optimizer = torch.optim.AdamW(
            self._network.parameters(), options.learning_rate, weight_decay=options.weight_decay
        )
        warm_up = math.ceil(len(self._rows) / options.batch_size)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: min(1.0, (step + 1) / warm_up)
        )

    def _average(self, average: Tensor, weight: Tensor, steps: Tensor | int) -> Tensor:
        """The moving average after one more step; over fewer steps at first."""
        decay = min(self._options.averaging, (1 + int(steps)) / (10 + int(steps)))
        return average.lerp(weight, 1 - decay)

    def run_epoch(self) -> float:
        """Go through all segments once, in random order; returns the mean loss."""
        total = 0.0
        order = torch.randperm(len(self._rows), generator=self._random)
        # Dropout draws from the process's generator, which is given back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._dropout_state)
            self._network.train()
            for batch in torch.split(order, self._options.batch_size):
                total += self._step(batch)
            self._dropout_state = torch.get_rng_state()
        return total / self._shares.sum().item()

    def _step(self, batch: Tensor) -> float:
        """One step on segments of these numbers (n,); returns the summed loss."""
        each = losses(
            self._network(self._rows[batch]),
            self._targets[batch],
            self._weights,
            self._options.label_smoothing,
        )  # (n,)
        loss = each @ self._shares[batch]
        self._optimizer.zero_grad()
        (loss / self._shares[batch].sum()).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._schedule.step()
        self._averaged.update_parameters(self._network)
        summed = loss.item()
        require_finite(summed, self._schedule.last_epoch, self._options.learning_rate)
        return summed

    def head(self) -> ClassifierHead:
        """The averaged head, for features as the encoder gives them."""
        head = ClassifierHead(self._config)
        head.load_state_dict(self._averaged.module.state_dict())
        first = head.layers[0]
        assert isinstance(first, nn.Linear)
        with torch.no_grad():
            # W (x - mean) / deviation + b  =  (W / deviation) x + (b - W mean / deviation)
            first.weight.div_(self._deviation)
            first.bias.sub_(first.weight @ self._mean)
        return head.eval()
