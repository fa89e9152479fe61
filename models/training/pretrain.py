"""Pretrain a BERT: masked language model and next sentence.

Devlin et al. 2019, appendix A.2; docs/training.md lists what is done otherwise. The same loop runs
on a CPU, a GPU, several of them or several machines, as accelerate has set them up. A step learns
from the same examples with the same weight on any number of processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.errors import BertstreamError
from models.nn.pretraining import Pretraining
from models.training.fitting import linear_rate, parameter_groups, require_finite
from models.training.pretraining_data import IGNORED, Batch, Example, PretrainingData
from models.training.run_checkpoints import Position, RunCheckpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainOptions:
    """How a model is pretrained."""

    steps: int
    """Steps of the optimizer."""
    batch_size: int = 32
    """Examples of a step, over all processes."""
    accumulation: int = 1
    """Passes in which a process goes through its examples of a step, where memory is short."""
    learning_rate: float = 1e-4
    """Of AdamW at its highest."""
    weight_decay: float = 0.01
    """Of all weights but biases and normalisations."""
    warm_up: float = 0.1
    """Share of the steps in which the learning rate rises; then it falls to 0, both evenly."""
    clip: float = 1.0
    """Longest gradient."""
    checkpoint_every: int = 500
    """Steps."""
    validate_every: int = 500
    """Steps."""
    validation_examples: int = 512
    """Most examples of held-out text that are looked at each time."""

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "accumulation",
            "checkpoint_every",
            "validate_every",
            "validation_examples",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is 1 or more, not {getattr(self, name)}")
        if not 0 <= self.warm_up <= 1:
            raise ValueError(f"warm_up is a share of the steps, not {self.warm_up}")
        if self.learning_rate <= 0 or self.clip <= 0 or self.weight_decay < 0:
            raise ValueError("learning rate and clip are above 0, weight decay is not below")


@dataclass(frozen=True, slots=True)
class Step:
    """What one step came to."""

    step: int
    """From 1."""
    epoch: int
    mlm_loss: float
    """Mean over masked tokens."""
    nsp_loss: float
    """Mean over examples."""
    learning_rate: float
    tokens: int
    """That it has seen, without padding, in all processes."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Validation:
    """How well text is predicted that was not learned from."""

    step: int
    mlm_loss: float
    """Mean over masked tokens."""
    masked_accuracy: float
    nsp_loss: float
    nsp_accuracy: float
    masked: int
    """Tokens that were to be predicted."""
    examples: int


def require_full_passes(batch_size: int, accumulation: int, accelerator: Accelerator) -> None:
    """See that each pass of a step, in each process, has an example.

    Raises:
        BertstreamError: one has none.
    """
    passes = accumulation * accelerator.num_processes
    if batch_size < passes:
        raise BertstreamError(f"a batch of {batch_size} is less than its {passes} passes")


def pretrain(
    block: Pretraining,
    data: PretrainingData,
    held_out: PretrainingData | None,
    options: PretrainOptions,
    accelerator: Accelerator,
    checkpoints: RunCheckpoints,
    report: Callable[[Step | Validation], None] = lambda _: None,
) -> None:
    """Train a block in place, from its last checkpoint on where there is one.

    Args:
        held_out: text that is not learned from; None: there is no validation.
        report: is called after each step and each validation, in the main process.

    Raises:
        BertstreamError: a checkpoint cannot be written or read, the loss is no number any more, or
            a step has fewer examples than passes.
        ValueError: the corpus has no examples.
    """
    require_full_passes(options.batch_size, options.accumulation, accelerator)
    groups = parameter_groups(block.parameters(), options.weight_decay)
    optimizer = torch.optim.AdamW(groups, options.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: linear_rate(step, options.steps, options.warm_up)
    )
    accelerator.register_for_checkpointing(schedule)
    model, optimizer = accelerator.prepare(block, optimizer)
    position = checkpoints.load() or Position()
    examples = data.examples(position.epoch, position.used)
    while position.step < options.steps:
        began = time.perf_counter()
        chosen = list(islice(examples, options.batch_size))
        rate = float(schedule.get_last_lr()[0])
        model.train()
        mlm_loss, nsp_loss, tokens = _learn(model, data, chosen, options, accelerator)
        require_finite(mlm_loss + nsp_loss, position.step + 1, options.learning_rate)
        accelerator.clip_grad_norm_(model.parameters(), options.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        position = _after(position, chosen)
        step, seconds = position.step, time.perf_counter() - began
        if accelerator.is_main_process:
            report(Step(step, position.epoch, mlm_loss, nsp_loss, rate, int(tokens), seconds))
        last = step == options.steps
        if held_out is not None and (last or step % options.validate_every == 0):
            validation = validate(model, held_out, options, accelerator, step)
            if accelerator.is_main_process:
                report(validation)
        if last or step % options.checkpoint_every == 0:
            checkpoints.save(position)


def _learn(
    model: nn.Module,
    data: PretrainingData,
    examples: Sequence[Example],
    options: PretrainOptions,
    accelerator: Accelerator,
) -> list[float]:
    """Add the gradients of a step's examples up; its losses and tokens, of all processes."""
    processes = accelerator.num_processes
    mine = examples[accelerator.process_index :: processes]
    parts = [mine[start :: options.accumulation] for start in range(options.accumulation)]
    batches = [data.batch(part) for part in parts]
    masked = _sum(accelerator, sum(batch.masked for batch in batches))[0]
    done = torch.zeros(2, device=accelerator.device)
    for number, batch in enumerate(batches, 1):
        # Gradients of all processes are put together once, after the last pass.
        together = nullcontext() if number == len(batches) else accelerator.no_sync(model)
        with together:
            mlm, nsp = _losses(model, batch.to(accelerator.device))
            losses = torch.stack([mlm.sum() / max(masked, 1.0), nsp.sum() / len(examples)])
            accelerator.backward(losses.sum() * processes)  # of which the mean is taken
        done += losses.detach()
    return _sum(accelerator, *done.tolist(), sum(batch.tokens for batch in batches))


@torch.no_grad()
def validate(
    model: nn.Module,
    data: PretrainingData,
    options: PretrainOptions,
    accelerator: Accelerator,
    step: int,
) -> Validation:
    """Predict the masked tokens of text that was not learned from, always the same."""
    model.eval()
    examples = data.some(options.validation_examples)
    mine = examples[accelerator.process_index :: accelerator.num_processes]
    sums = torch.zeros(4, device=accelerator.device)
    n_masked = 0
    for start in range(0, len(mine), options.batch_size):
        batch = data.batch(mine[start : start + options.batch_size]).to(accelerator.device)
        log_nsp, log_mlm = _predict(model, batch)
        targets = batch.targets.flatten()
        mlm = F.nll_loss(log_mlm, targets, ignore_index=IGNORED, reduction="sum")
        right = (log_mlm.argmax(-1) == targets).sum()
        nsp = F.nll_loss(log_nsp, batch.not_next, reduction="sum")
        sums += torch.stack([mlm, right, nsp, (log_nsp.argmax(-1) == batch.not_next).sum()])
        n_masked += batch.masked
    mlm_loss, foreseen, nsp_loss, told, masked, count = _sum(
        accelerator, *sums.tolist(), n_masked, len(mine)
    )
    return Validation(
        step,
        mlm_loss=mlm_loss / max(masked, 1),
        masked_accuracy=foreseen / max(masked, 1),
        nsp_loss=nsp_loss / max(count, 1),
        nsp_accuracy=told / max(count, 1),
        masked=int(masked),
        examples=int(count),
    )


def _predict(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    log_nsp, log_mlm = model(
        batch.token_ids, batch.type_ids, batch.input_mask, batch.masked_positions
    )
    return log_nsp, log_mlm


def _losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Negative log-likelihoods of the tokens (batch * masked,) and of the pairs (batch,)."""
    log_nsp, log_mlm = _predict(model, batch)
    targets = batch.targets.flatten()  # (batch * masked,)
    mlm = F.nll_loss(log_mlm, targets, ignore_index=IGNORED, reduction="none")
    return mlm, F.nll_loss(log_nsp, batch.not_next, reduction="none")


def _sum(accelerator: Accelerator, *values: float) -> list[float]:
    """Each value summed over all processes."""
    mine = torch.tensor(values, dtype=torch.float32, device=accelerator.device)
    total: Tensor = accelerator.reduce(mine, "sum")
    return total.tolist()


def _after(position: Position, examples: Sequence[Example]) -> Position:
    """Where a run stands that has learned from these."""
    epoch = examples[-1].epoch
    of_it = sum(example.epoch == epoch for example in examples)
    used = position.used + of_it if epoch == position.epoch else of_it
    return Position(position.step + 1, epoch, used)
