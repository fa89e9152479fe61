"""The folder that training leaves: a classifier, its model card and the record of its training.

A head on a frozen encoder names that encoder; one that was fine-tuned with its encoder has it in
the folder `encoder`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.folders import new_folder
from models.inference.checkpoint import Checkpoint
from models.inference.sentence_modules import MODULES_NAME
from models.nn.classifier import ClassifierHead
from models.quiet import save_quietly
from models.training.evaluate import Evaluation
from models.training.finetune import TuneOptions
from models.training.fitting import Fit
from models.training.frozen import FitOptions
from models.training.labelled import LabelledCorpus

RECORD_NAME = "training.json"
CARD_NAME = "README.md"
ENCODER_NAME = "encoder"
BESIDE_WEIGHTS = frozenset({".json", ".model", ".py", ".txt"})
"""Endings of the files of an encoder that are copied: configuration, tokenizer, code of its own."""


def make_record(
    fit: Fit,
    options: FitOptions | TuneOptions,
    encoder: Mapping[str, Any],
    corpus: LabelledCorpus,
    evaluation: Evaluation | None = None,
    evaluated: LabelledCorpus | None = None,
) -> dict[str, Any]:
    """What came about how, as JSON takes it.

    Args:
        encoder: what the engine says of it that it was before.
        evaluated: the documents that `evaluation` is of.
    """
    record: dict[str, Any] = {
        "head": asdict(fit.head.config),
        "encoder": {
            name: encoder[name] for name in ("path", "version", "family", "parameters", "window")
        },
        "frozen": isinstance(options, FitOptions),
        "options": asdict(options),
        "data": corpus.describe(),
        "held_out": fit.held_out,
        "best": asdict(fit.best),
        "epochs": [asdict(epoch) for epoch in fit.epochs],
        "evaluation": None,
    }
    if evaluation is not None and evaluated is not None:
        learned = {document.text for document in corpus.documents}
        record["evaluation"] = {
            **evaluated.describe(),
            "also_learned": sum(document.text in learned for document in evaluated.documents),
            "scores": evaluation.facts(),
        }
    return record


def write_classifier(
    folder: Path,
    head: ClassifierHead,
    record: Mapping[str, Any],
    encoder: Checkpoint | None = None,
) -> None:
    """Write the folder as a whole or not at all.

    Args:
        encoder: that was trained as well; None: it stays where it is.

    Raises:
        BertstreamError: the disk refuses, or the folder came to be in use meanwhile.
    """
    with new_folder(folder) as partial:
        head.save(partial)
        if encoder is not None:
            _write_encoder(partial / ENCODER_NAME, encoder)
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (partial / RECORD_NAME).write_text(text, encoding="utf-8")
        (partial / CARD_NAME).write_text(write_card(record), encoding="utf-8")


def _write_encoder(folder: Path, encoder: Checkpoint) -> None:
    """Write a transformers model with all but the weights of the folder that it was read from."""
    folder.mkdir()
    for file in encoder.folder.iterdir():
        # Modules of sentence-transformers are poolings; the head has its own.
        left = file.name.endswith(".index.json") or file.name == MODULES_NAME
        if file.suffix in BESIDE_WEIGHTS and file.is_file() and not left:
            shutil.copy(file, folder)
    save_quietly(encoder.model, folder)


def write_card(record: Mapping[str, Any]) -> str:
    """A model card with what the record knows; its source and terms are its owner's to add."""
    head, data, evaluation = record["head"], record["data"], record["evaluation"]
    counts = ", ".join(f"{label} {count:,}" for label, count in data["labels"].items())
    layers = f"{' → '.join(map(str, head['layers']))}, {head['activation']}"
    if record["frozen"]:
        how = (
            f"A fully connected head ({layers}) on the frozen encoder `{head['encoder']}` "
            f"({head['pooling']} pooling), trained with `bertstream train --frozen-encoder`. The "
            "encoder itself is not in this folder."
        )
    else:
        last = record["options"]["last_layers"]
        how = (
            f"`{record['encoder']['path']}` ({head['pooling']} pooling) with a fully connected "
            f"head ({layers}), fine-tuned with `bertstream train`"
            + ("." if last is None else f", the last {last} layers of the encoder.")
        )
    if head["multi_label"]:
        how += " A document may have any number of the labels."
    lines = [
        f"# Classifier: {', '.join(head['labels'])}",
        "",
        how,
        "",
        "Serve it with `BERTSTREAM_MODEL=<this folder>`.",
        "",
        f"Trained on `{data['file']}`: {data['documents']:,} documents ({counts}). The terms of "
        "these documents and of the encoder hold for the weights.",
        "",
        "| measured on | documents | accuracy | macro F1 |",
        "| --- | ---: | ---: | ---: |",
    ]
    if record["held_out"]:
        lines.append(
            f"| held out of `{data['file']}` to find the number of epochs | "
            f"{record['held_out']:,} | {record['best']['validation_accuracy']:.4f} | |"
        )
    if evaluation is not None:
        scores = evaluation["scores"]
        lines.append(
            f"| `{evaluation['file']}` | {scores['documents']:,} | {scores['accuracy']:.4f} | "
            f"{scores['macro_f1']:.4f} |"
        )
    return "\n".join([*lines, "", f"Options, seed, hashes, every epoch: `{RECORD_NAME}`.", ""])
