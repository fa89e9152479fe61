"""A small run of pretraining, also in a process of its own: `python -m ... FOLDER [KILL_AT]`.

Prints a hash of the weights that it ends with; with a step to die at, it kills itself behind it.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import BertConfig

from models.nn.pretraining import Pretraining
from models.text.tokenized import write_tokenized
from models.text.vocabulary import train_tokenizer
from models.training.pretrain import PretrainOptions, Step, Validation, pretrain
from models.training.pretraining_data import PretrainingData
from models.training.run_checkpoints import RunCheckpoints
from tests.checkpoints import CORPUS


def run(
    folder: Path,
    *,
    steps: int = 8,
    accumulation: int = 1,
    dropout: float = 0.1,
    after_step: Callable[[int], None] = lambda _: None,
) -> tuple[str, list[Step | Validation]]:
    """Train; a hash of the weights, and what was reported."""
    accelerator = Accelerator(cpu=True)
    tokenizer = train_tokenizer(CORPUS * 3, vocabulary=300)
    texts = [tokenizer(text, add_special_tokens=False).input_ids for text in CORPUS]
    corpus = write_tokenized(folder / f"data-{os.getpid()}", [texts[:3], texts[3:5], texts[5:]] * 2)
    torch.manual_seed(0)
    block = Pretraining(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
    )
    data = PretrainingData(corpus, tokenizer, length=32, seed=3)
    reports: list[Step | Validation] = []

    def report(one: Step | Validation) -> None:
        reports.append(one)
        if isinstance(one, Step):
            after_step(one.step)

    options = PretrainOptions(
        steps=steps,
        batch_size=4,
        accumulation=accumulation,
        learning_rate=5e-3,
        checkpoint_every=3,
        validate_every=4,
    )
    checkpoints = RunCheckpoints(folder / "checkpoints", accelerator)
    pretrain(block, data, data, options, accelerator, checkpoints, report)
    digest = hashlib.sha256()
    for name, weights in sorted(block.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.numpy().tobytes())
    return digest.hexdigest(), reports


def main() -> None:
    kill_at = int(sys.argv[2]) if len(sys.argv) > 2 else 0

    def after_step(step: int) -> None:
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    digest, _ = run(Path(sys.argv[1]), after_step=after_step)
    print(digest)


if __name__ == "__main__":
    main()
