"""The folder of a run of pretraining, while it goes on and afterwards.

=================  ==================================================================
`run.json`         what the run was asked for; a run that goes on has to be the same
`data`             the corpora as token ids
`checkpoints`      where the run stands; the last ones
`log.jsonl`        a line for each step and each validation
`curves.png`       the same as a picture
the rest           a checkpoint folder of transformers, `training.json` and a model card
=================  ==================================================================
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.errors import BertstreamError
from models.folders import check_output
from models.training.checkpoint import RECORD_NAME
from models.training.pretrain import Step, Validation

RUN, LOG, CURVES = "run.json", "log.jsonl", "curves.png"
DATA, CHECKPOINTS = "data", "checkpoints"


def begin(folder: Path, asked: Mapping[str, Any], *, resume: bool) -> None:
    """Make the folder, or see that it is one of the same run.

    Raises:
        BertstreamError: it is in use, or of another run; the message says of which.
    """
    file = folder / RUN
    try:
        if file.is_file():
            if not resume:
                raise BertstreamError(
                    f"{folder} holds a run; add --resume to go on with it, or choose another folder"
                )
            _same(folder, json.loads(file.read_text(encoding="utf-8")), asked)
            return
        if resume:
            raise BertstreamError(f"{folder} holds no run to go on with; leave --resume out")
        check_output(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(asked, indent=2) + "\n")
    except OSError as error:
        raise BertstreamError(f"{folder} cannot be made: {error.strerror}") from None
    except ValueError as error:
        raise BertstreamError(f"{file} cannot be read: {error}") from None


@contextmanager
def gone_on_error(folder: Path) -> Iterator[None]:
    """Leave no folder to be in the way of a run that is asked for again, and rightly."""
    try:
        yield
    except BertstreamError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _same(folder: Path, before: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    for name in sorted(before.keys() | asked.keys()):
        if before.get(name) != asked.get(name):
            raise BertstreamError(
                f"{folder} holds a run with {name}={before.get(name)}, not {asked.get(name)}; "
                "give the same, or choose another folder"
            )


def write_atomically(file: Path, text: str) -> None:
    """Write a file as a whole, or not at all."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


class RunLog:
    """The log of a run, a JSON object a line; steps that will be done again are taken out.

    Args:
        step: where the run stands.
    """

    def __init__(self, file: Path, step: int) -> None:
        self._file = file
        kept = [row for row in self.rows() if row["step"] <= step]
        write_atomically(file, "".join(json.dumps(row) + "\n" for row in kept))

    def add(self, report: Step | Validation) -> None:
        """Write a line."""
        kind = "step" if isinstance(report, Step) else "validation"
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **asdict(report)}) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """All lines; the last one may have been cut short by whatever ended the run."""
        rows = []
        if self._file.is_file():
            for line in self._file.read_text(encoding="utf-8").splitlines():
                try:
                    rows.append(json.loads(line))
                except ValueError:
                    break
        return rows


def write_card(record: Mapping[str, Any]) -> str:
    """A model card with what the record knows; its source and terms are its owner's to add."""
    asked, last = record["asked"], record["validation"]
    files = ", ".join(f"`{one['file']}`" for one in asked["data"])
    lines = [
        f"# BERT, {asked['size']}",
        "",
        f"Pretrained with `bertstream pretrain` on {files}: {record['documents']:,} documents, "
        f"{record['tokens']:,} tokens, {asked['steps']:,} steps of {asked['batch_size']} pairs. "
        "The terms of these documents hold for the weights.",
        "",
        "`AutoModel.from_pretrained(<this folder>)` opens it.",
        "",
    ]
    if last is not None:
        lines += [
            "| on text that was held out | |",
            "| --- | ---: |",
            f"| masked tokens foreseen | {last['masked_accuracy']:.4f} |",
            f"| who always says the commonest token | {record['commonest']:.4f} |",
            f"| next sentence told | {last['nsp_accuracy']:.4f} |",
            f"| loss of masked tokens | {last['mlm_loss']:.4f} |",
            "",
        ]
    return "\n".join([*lines, f"Options, seed, hashes: `{RECORD_NAME}`; every step: `{LOG}`.", ""])
