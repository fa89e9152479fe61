"""Fine-tune an encoder together with a fully connected head on it.

Devlin et al. 2019, section 4.1 and appendix A.3: a new head, a few passes, a learning rate that
warms up and falls. A document of several segments counts as one, and is answered as in serving.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.errors import BertstreamError
from models.inference.batching import rectangle
from models.inference.checkpoint import Checkpoint
from models.inference.device import is_out_of_memory, to_device
from models.inference.tasks import Segment
from models.nn.classifier import ClassifierHead, HeadConfig
from models.training.fitting import (
    Epoch,
    Fit,
    Precision,
    is_reduced,
    linear_rate,
    parameter_groups,
    require_finite,
)
from models.training.objective import balanced_weights, judge, losses
from models.training.segments import Parts, SegmentedCorpus, forward_all
from models.training.splits import Split

POOL = 16
"""Steps whose documents are sorted by length together, so that little is padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneOptions:
    """How a model is fine-tuned."""

    learning_rate: float = 5e-5
    """Of AdamW at its highest."""
    head_learning_rate: float | None = None
    """Of the head; None: the same."""
    weight_decay: float = 0.01
    """Of all weights but biases and normalisations."""
    warm_up: float = 0.1
    """Share of the steps in which the learning rate rises; then it falls to 0, both evenly."""
    clip: float = 1.0
    """Longest gradient."""
    label_smoothing: float = 0.0
    balanced: bool = False
    """Whether rare labels count as much as common ones; see `balanced_weights`."""
    batch_size: int = 32
    """Segments of one step; documents, where the head joins their segments."""
    epochs: int = 3
    """Most passes over the documents."""
    patience: int = 2
    """Passes without a lower validation loss after which fitting ends."""
    validation: float = 0.1
    """Share of each label's documents that judges which pass is kept; 0: the last one is. See
    `split_by_label`."""
    last_layers: int | None = None
    """Layers of the encoder that are trained, from the last one down; None: all, and the
    embeddings."""
    precision: Precision = "auto"
    seed: int = 0


def fine_tune(
    checkpoint: Checkpoint,
    corpus: SegmentedCorpus,
    targets: Tensor,
    config: HeadConfig,
    options: TuneOptions,
    split: Split,
    device: torch.device,
    report: Callable[[Epoch], None] = lambda _: None,
    advance: Callable[[int], None] = lambda _: None,
) -> Fit:
    """Train a new head, and the encoder in place; keep the weights of the best pass.

    The same documents, options and seed give the same weights on the same machine.

    Args:
        checkpoint: of an encoder with its pooling, as `load_encoder` gives it.
        corpus: n documents.
        targets: see `objective`.
        report: called after each pass.
        advance: called after each step with the number of its segments.

    Raises:
        BertstreamError: the loss is no number any more, the device has no memory for a step, or the
            encoder has no such layers.
    """
    known, held_out = corpus.select(split.training), corpus.select(split.validation)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        course = _Course(checkpoint, known, targets[split.training], config, options, device)
        epochs: list[Epoch] = []
        best: Epoch | None = None
        kept: dict[str, Tensor] = {}
        while len(epochs) < options.epochs:
            training_loss = course.run_epoch(advance)
            judged = judge(course.classifier.predict(held_out), targets[split.validation])
            require_finite(judged[0] or 0.0, course.steps, options.learning_rate)
            epoch = Epoch(len(epochs) + 1, training_loss, *judged)
            epochs.append(epoch)
            report(epoch)
            if epoch.improves_on(best):
                best = epoch
                if len(held_out.parts):
                    kept = course.classifier.trained_weights()
            elif best is not None and epoch.number - best.number >= options.patience:
                break
    assert best is not None
    course.classifier.load_state_dict(kept, strict=False)
    course.classifier.eval().requires_grad_(False).cpu()
    return Fit(course.classifier.head, tuple(epochs), best, len(split.validation))


class Classifier(nn.Module):
    """An encoder with its pooling, and a head.

    Args:
        checkpoint: of the encoder, whose network is taken as it is.
        autocast: computes in bfloat16 what can be; the weights stay in float32.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        head: ClassifierHead,
        device: torch.device,
        *,
        autocast: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = checkpoint.network
        self.head = head
        self._pad_id = checkpoint.tokenizer.pad_id
        self._device = device
        self._autocast = autocast
        self.to(device)

    def forward(self, documents: Sequence[Sequence[Segment]]) -> Tensor:
        """Score documents by their segments, one of each unless the head joins them.

        Returns:
            Logits (n, n_labels) in float32.
        """
        pooled = self.pool([segment for document in documents for segment in document])
        if not self.head.config.joins_segments:
            logits: Tensor = self.head(pooled)
            return logits
        sizes = torch.tensor([len(document) for document in documents])
        owners = torch.arange(len(documents)).repeat_interleave(sizes).to(self._device)
        return self.head.classify_documents(pooled.float(), owners, len(documents))

    def pool(self, segments: Sequence[Segment]) -> Tensor:
        """What the encoder gives for segments (n, d_model)."""
        place = partial(to_device, device=self._device)
        token_ids, mask, type_ids = rectangle(segments, self._pad_id)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            pooled: Tensor = self.encoder(
                place(token_ids),
                place(mask.astype(np.int64)),
                None if type_ids is None else place(type_ids),
            )
        return pooled

    @torch.no_grad()
    def predict(
        self, corpus: SegmentedCorpus, advance: Callable[[int], None] = lambda _: None
    ) -> Tensor:
        """Logits of documents (n_documents, n_labels) on the CPU, as in serving.

        Args:
            advance: called with the number of segments that have been computed since.
        """
        if not corpus.segments:
            return torch.empty(0, len(self.head.labels))
        self.eval()
        pooled = forward_all(self.pool, corpus.segments, advance).to(self._device)
        if not self.head.config.joins_segments:
            return corpus.parts.average(self.head(pooled).cpu())
        owners = corpus.parts.owners.to(self._device)
        return self.head.classify_documents(pooled.float(), owners, len(corpus.parts)).cpu()

    def trained_weights(self) -> dict[str, Tensor]:
        """A copy of those that are being trained, on the CPU."""
        return {
            name: weight.detach().cpu().clone()
            for name, weight in self.named_parameters()
            if weight.requires_grad
        }


class _Course:
    """One course of training."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        corpus: SegmentedCorpus,
        targets: Tensor,
        config: HeadConfig,
        options: TuneOptions,
        device: torch.device,
    ) -> None:
        self._options = options
        if config.joins_segments:
            self._rows, parts = corpus.documents(), Parts.whole(len(corpus.parts))
        else:
            self._rows, parts = [(segment,) for segment in corpus.segments], corpus.parts
        self._shares = parts.shares.to(device)
        self._targets = targets[parts.owners].to(device)  # of each row
        weights = balanced_weights(targets, len(config.labels)) if options.balanced else None
        self._weights = None if weights is None else weights.to(device)
        self._random = torch.Generator().manual_seed(options.seed)
        train_last_layers(checkpoint.model, options.last_layers)
        self.classifier = Classifier(
            checkpoint,
            ClassifierHead(config),
            device,
            autocast=is_reduced(options.precision, device),
        )
        self._optimizer = torch.optim.AdamW(self._groups(), options.learning_rate)
        steps = options.epochs * math.ceil(len(self._rows) / options.batch_size)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: linear_rate(step, steps, options.warm_up)
        )

    @property
    def steps(self) -> int:
        """Steps that were made."""
        return int(self._schedule.last_epoch)

    def _groups(self) -> Iterator[dict[str, Any]]:
        options = self._options
        head_rate = options.head_learning_rate or options.learning_rate
        for module, rate in (
            (self.classifier.encoder, options.learning_rate),
            (self.classifier.head, head_rate),
        ):
            trained = [weight for weight in module.parameters() if weight.requires_grad]
            for group in parameter_groups(trained, options.weight_decay):
                yield group | {"lr": rate}

    def run_epoch(self, advance: Callable[[int], None]) -> float:
        """Go through all rows once, in random order; returns the mean loss."""
        total = 0.0
        self.classifier.train()
        lengths = [sum(map(len, segments)) for segments in self._rows]
        for batch in shuffled_batches(lengths, self._options.batch_size, self._random):
            segments = sum(len(self._rows[number]) for number in batch)
            try:
                total += self._step(batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise BertstreamError(
                    f"the device has no memory for a step of {segments} segments: try a smaller "
                    "batch size"
                ) from None
            advance(segments)
        return total / self._shares.sum().item()

    def _step(self, batch: list[int]) -> float:
        """One step on rows of these numbers; returns the summed loss."""
        each = losses(
            self.classifier([self._rows[number] for number in batch]),
            self._targets[batch],
            self._weights,
            self._options.label_smoothing,
        )  # (n,)
        loss = each @ self._shares[batch]
        (loss / self._shares[batch].sum()).backward()  # type: ignore[no-untyped-call]
        summed = loss.item()
        require_finite(summed, self.steps + 1, self._options.learning_rate)
        nn.utils.clip_grad_norm_(self.classifier.parameters(), self._options.clip)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        return summed


def shuffled_batches(
    lengths: Sequence[int], size: int, random: torch.Generator
) -> Iterator[list[int]]:
    """Numbers of all rows in batches, in random order; rows of a batch are of similar length."""
    order = torch.randperm(len(lengths), generator=random).tolist()
    batches = []
    for start in range(0, len(order), POOL * size):
        pool = sorted(order[start : start + POOL * size], key=lengths.__getitem__)
        batches += [pool[first : first + size] for first in range(0, len(pool), size)]
    for number in torch.randperm(len(batches), generator=random).tolist():
        yield batches[number]


def train_last_layers(model: nn.Module, last: int | None) -> None:
    """Choose what of a transformers encoder is trained: so many layers, and what follows on them.

    Args:
        last: number of layers, 1 or more; None: everything.

    Raises:
        BertstreamError: it has fewer layers, or none that can be told.
    """
    model.requires_grad_(True)
    if last is None:
        return
    config: Any = model.config
    n_layers = getattr(config, "num_hidden_layers", None)
    layers = next(
        (m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers), None
    )
    if layers is None:
        raise BertstreamError("the encoder's layers cannot be told apart; train all, or none")
    if last > len(layers):
        raise BertstreamError(f"the encoder has {len(layers)} layers, not {last}")
    first = next(layers[len(layers) - last].parameters())
    for weight in model.parameters():
        if weight is first:
            break
        weight.requires_grad_(False)
