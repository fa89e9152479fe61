"""A run of pretraining from text to a checkpoint folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import set_seed
from transformers import AutoTokenizer

from models.errors import BertstreamError, ModelLoadError, one_line
from models.nn.configurations import bert_config
from models.nn.pretraining import Pretraining
from models.text.corpora import file_facts, read_texts
from models.text.pairs import SecondPiece
from models.text.preparation import open_prepared, prepare
from models.text.tokenized import TokenizedCorpus
from models.text.vocabulary import Kind, train_tokenizer
from models.training.checkpoint import CARD_NAME, RECORD_NAME
from models.training.fitting import Precision, is_reduced
from models.training.pictures import plot_curves
from models.training.pretrain import (
    PretrainOptions,
    Step,
    Validation,
    pretrain,
    require_full_passes,
)
from models.training.pretraining_data import IGNORED, PretrainingData, share_of_commonest
from models.training.run_checkpoints import RunCheckpoints
from models.training.run_folder import (
    CHECKPOINTS,
    CURVES,
    DATA,
    LOG,
    RunLog,
    begin,
    gone_on_error,
    write_atomically,
    write_card,
)

PREPARED_WITHIN = timedelta(days=1)
"""How long other processes wait while the first one prepares the data."""
PREPARED = "prepared.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run is asked for."""

    data: tuple[Path, ...]
    """Files of documents."""
    size: str = "nano"
    start: Path | None = None
    """Checkpoint folder of a BERT to go on from, in the place of a new one of that size."""
    tokenizer: Path | None = None
    """Folder of a tokenizer; None: that of `start`, or else one is trained."""
    kind: Kind = "wordpiece"
    """Of the tokenizer that is trained."""
    vocabulary: int = 30_522
    """Most entries of that one."""
    length: int = 128
    """Most tokens of an input."""
    positions: int | None = None
    """Most tokens that the model will ever take, in later runs; None: as many as in this one."""
    epochs: float = 40.0
    """Passes over the documents; how many steps they are is counted in the first one."""
    steps: int | None = None
    """In their place."""
    batch_size: int = 64
    accumulation: int = 1
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    warm_up: float = 0.1
    dropout: float = 0.1
    activation: str = "gelu"
    second: SecondPiece = "next"
    share: float = 0.15
    """Of the tokens, that is predicted."""
    whole_words: bool = False
    held_out: float = 0.05
    """Share of the documents that is not learned from."""
    language: str = "en"
    precision: Precision = "auto"
    checkpoint_every: int = 500
    validate_every: int = 500
    seed: int = 0

    def facts(self) -> dict[str, Any]:
        """All of it as JSON takes it, with the hash of every file.

        Raises:
            BertstreamError: a file cannot be read.
        """
        facts = asdict(self) | {"data": [file_facts(file) for file in self.data]}
        return facts | {
            name: None if facts[name] is None else str(facts[name])
            for name in ("start", "tokenizer")
        }


@dataclass(frozen=True, slots=True)
class Display:
    """Where a run tells how it goes."""

    say: Callable[[str], None] = lambda _: None
    """Takes what is being done."""
    report: Callable[[Step | Validation, int], None] = lambda *_: None
    """Takes each step and validation, and the number of all steps."""


SILENT = Display()


def run(
    plan: Plan, folder: Path, *, resume: bool = False, display: Display = SILENT
) -> dict[str, Any] | None:
    """Pretrain from text, and leave a checkpoint folder of transformers.

    Args:
        folder: a new one, or that of a run that was stopped; see `run_folder`.
        resume: go on with the run in that folder.

    Returns:
        The record of the run; None in processes other than the main one.

    Raises:
        BertstreamError: the plan or a file is at fault, and a new folder is gone; or the disk
            refuses, and the last checkpoint is whole.
    """
    accelerator = _accelerator(plan.precision)
    require_full_passes(plan.batch_size, plan.accumulation, accelerator)
    asked = plan.facts()
    main = accelerator.is_main_process
    if main:
        begin(folder, asked, resume=resume)
    with gone_on_error(folder) if main and not resume else nullcontext():
        if main:
            _prepare(plan, folder, display)
        accelerator.wait_for_everyone()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        corpus, withheld = open_prepared(folder / DATA)
        try:
            data, held_out = (_data(plan, one, tokenizer) for one in (corpus, withheld))
            options = _options(plan, data.count())
            set_seed(plan.seed)
            block = _block(plan, tokenizer)
            set_seed(plan.seed, device_specific=True)  # dropout is another in each process
        except ValueError as error:
            raise BertstreamError(str(error)) from None
    checkpoints = RunCheckpoints(folder / CHECKPOINTS, accelerator)
    validated = held_out if held_out.count() else None
    if not main:
        pretrain(block, data, validated, options, accelerator, checkpoints)
        return None
    log = RunLog(folder / LOG, checkpoints.last_step)

    def report(one: Step | Validation) -> None:
        log.add(one)
        display.report(one, options.steps)

    display.say("pretraining")
    pretrain(block, data, validated, options, accelerator, checkpoints, report)
    rows = log.rows()
    steps = [row for row in rows if row["kind"] == "step"]
    validations = [row for row in rows if row["kind"] == "validation"]
    record = {
        "bertstream": version("bertstream"),
        "torch": version("torch"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "asked": asked | {"steps": options.steps},
        "parameters": sum(weights.numel() for weights in block.parameters()),
        "vocabulary": len(tokenizer),
        "documents": len(corpus),
        "held_out": len(withheld),
        "tokens": sum(row["tokens"] for row in steps),
        "seconds": round(sum(row["seconds"] for row in steps), 1),
        "processes": accelerator.num_processes,
        "validation": validations[-1] if validations else None,
        "commonest": _commonest(held_out, corpus, options.validation_examples),
    }
    display.say("writing")
    _write(folder, block, rows, record)
    return record


def _accelerator(precision: Precision) -> Accelerator:
    """The processes and devices that this one is to work with, and in which precision."""
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=PREPARED_WITHIN)
    return Accelerator(mixed_precision="bf16" if is_reduced(precision, state.device) else "no")


def _prepare(plan: Plan, folder: Path, display: Display) -> None:
    """Write tokenizer and corpora into the folder, unless they are there."""
    done = folder / DATA / PREPARED
    if done.is_file():
        return
    display.say("tokenizer")
    given = plan.tokenizer or plan.start
    try:
        if given is None:
            tokenizer = train_tokenizer(
                read_texts(plan.data),
                kind=plan.kind,
                vocabulary=plan.vocabulary,
                length=plan.length,
            )
        else:
            tokenizer = AutoTokenizer.from_pretrained(given, local_files_only=True)
            tokenizer.model_max_length = plan.length
        tokenizer.save_pretrained(folder)
        prepare(
            folder / DATA,
            read_texts(plan.data),
            tokenizer,
            held_out=plan.held_out,
            language=plan.language,
            seed=plan.seed,
            advance=lambda count: display.say(f"documents: {count:,}"),
        )
        write_atomically(done, "{}\n")
    except OSError as error:
        if given is not None and not (folder / "tokenizer.json").exists():
            raise ModelLoadError(f"{given} holds no tokenizer: {one_line(error)}") from None
        raise BertstreamError(f"{folder} cannot be written: {one_line(error)}") from None
    except ValueError as error:
        raise BertstreamError(one_line(error)) from None


def _data(plan: Plan, corpus: TokenizedCorpus, tokenizer: Any) -> PretrainingData:
    return PretrainingData(
        corpus,
        tokenizer,
        length=plan.length,
        seed=plan.seed,
        second=plan.second,
        share=plan.share,
        whole_words=plan.whole_words,
    )


def _options(plan: Plan, examples: int) -> PretrainOptions:
    """The options of the loop.

    Args:
        examples: of one epoch.

    Raises:
        ValueError: there are none, or an option cannot be.
    """
    if not examples:
        raise ValueError("the documents have no two tokens one after the other")
    return PretrainOptions(
        steps=plan.steps or math.ceil(plan.epochs * examples / plan.batch_size),
        batch_size=plan.batch_size,
        accumulation=plan.accumulation,
        learning_rate=plan.learning_rate,
        weight_decay=plan.weight_decay,
        warm_up=plan.warm_up,
        checkpoint_every=plan.checkpoint_every,
        validate_every=plan.validate_every,
    )


def _block(plan: Plan, tokenizer: Any) -> Pretraining:
    """The network: a new one, or one to go on from.

    Raises:
        ValueError: it cannot be, or does not fit the tokenizer.
        ModelLoadError: there is none to go on from.
    """
    if plan.start is None:
        return Pretraining(
            bert_config(
                plan.size,
                vocabulary=len(tokenizer),
                length=max(plan.length, plan.positions or 0),
                activation=plan.activation,
                dropout=plan.dropout,
                pad_id=tokenizer.pad_token_id,
            )
        )
    block = Pretraining.load(plan.start)
    if block.config.vocab_size < len(tokenizer):
        raise ValueError(
            f"the tokenizer has {len(tokenizer):,} entries, {plan.start} knows "
            f"{block.config.vocab_size:,}"
        )
    if block.config.max_position_embeddings < plan.length:
        raise ValueError(
            f"{plan.start} takes {block.config.max_position_embeddings} tokens, not {plan.length}"
        )
    return block


def _commonest(held_out: PretrainingData, corpus: TokenizedCorpus, most: int) -> float | None:
    """What always guessing the commonest token foresees of held-out text."""
    examples = held_out.some(most)
    if not examples:
        return None
    targets = held_out.batch(examples).targets
    return share_of_commonest(targets[targets != IGNORED].numpy(), corpus)


def _write(folder: Path, block: Pretraining, rows: list[Any], record: dict[str, Any]) -> None:
    try:
        block.save(folder)
        plot_curves(rows, folder / CURVES)
        write_atomically(folder / RECORD_NAME, json.dumps(record, indent=2) + "\n")
        write_atomically(folder / CARD_NAME, write_card(record))
    except OSError as error:
        raise BertstreamError(f"{folder} cannot be written: {one_line(error)}") from None
