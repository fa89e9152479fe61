"""`bertstream pretrain`: a BERT from text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from app.cli.console import err, out, print_json
from app.cli.text import DataOption, MoreData
from app.errors import BertstreamError

if TYPE_CHECKING:
    from models.training.pretrain import Step, Validation
    from models.training.pretraining_run import Display

SMOOTHING = 0.05
"""Of the loss that is shown: the weight of the last step."""


def pretrain(
    data: DataOption,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the run; a new one.")],
    more: MoreData = None,
    size: Annotated[
        Literal["nano", "micro", "base", "large"],
        typer.Option(help="4, 12, 12 or 24 layers, 256, 512, 768 or 1024 wide."),
    ] = "nano",
    start: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="A BERT to go on from, with its tokenizer."),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A tokenizer's folder; else one is trained first."),
    ] = None,
    kind: Annotated[
        Literal["wordpiece", "bpe"], typer.Option(help="Of the tokenizer that is trained.")
    ] = "wordpiece",
    vocabulary: Annotated[int, typer.Option(min=6, help="Most entries of that one.")] = 30_522,
    length: Annotated[int, typer.Option(min=5, help="Most tokens of an input.")] = 128,
    positions: Annotated[
        int | None,
        typer.Option(min=5, help="Most that later runs, with --from, may give the model."),
    ] = None,
    epochs: Annotated[float, typer.Option(min=0.001, help="Passes over the documents.")] = 40.0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps, in the place of --epochs.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs of a step.")] = 64,
    accumulation: Annotated[
        int, typer.Option(min=1, help="Passes that a step takes, where memory is short.")
    ] = 1,
    learning_rate: Annotated[float, typer.Option(min=1e-9, help="The highest.")] = 5e-4,
    weight_decay: Annotated[float, typer.Option(min=0)] = 0.01,
    warm_up: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the steps until the highest rate.")
    ] = 0.1,
    dropout: Annotated[float, typer.Option(min=0, max=0.99)] = 0.1,
    activation: Annotated[str, typer.Option(help="As transformers names it.")] = "gelu",
    second: Annotated[
        Literal["next", "order"],
        typer.Option(help="Second piece of a pair: next or random, or both in either order."),
    ] = "next",
    share: Annotated[
        float, typer.Option(min=0.001, max=1, help="Of the tokens, that is predicted.")
    ] = 0.15,
    whole_words: Annotated[bool, typer.Option("--whole-words", help="Mask all of a word.")] = False,
    held_out: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of the documents to validate on.")
    ] = 0.05,
    language: Annotated[str, typer.Option(help="Whose rules end a sentence.")] = "en",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="auto: bfloat16 where the hardware computes it."),
    ] = "auto",
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps.")] = 500,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn at random.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in DIR, given the same options.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the record of the run as one JSON object.")
    ] = False,
) -> None:
    """Pretrain a BERT on documents: masked language model and next sentence.

    A run that was stopped, by Ctrl-C or otherwise, goes on from its last checkpoint with --resume,
    to the same weights. On several GPUs or machines: `accelerate launch -m app.cli pretrain ...`.
    """
    try:
        import matplotlib  # noqa: F401 - the curves come last

        from models.training.pretraining_run import Plan, run
    except ImportError as error:
        raise BertstreamError(
            f"{error.name} is not installed: pip install 'bertstream[training]'"
        ) from None
    plan = Plan(
        data=(*data, *(more or [])),
        size=size,
        start=start,
        tokenizer=tokenizer,
        kind=kind,
        vocabulary=vocabulary,
        length=length,
        positions=positions,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        accumulation=accumulation,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warm_up=warm_up,
        dropout=dropout,
        activation=activation,
        second=second,
        share=share,
        whole_words=whole_words,
        held_out=held_out,
        language=language,
        precision=precision,
        checkpoint_every=checkpoint_every,
        validate_every=validate_every,
        seed=seed,
    )
    try:
        with _display() as display:
            record = run(plan, output, resume=resume, display=display)
    except KeyboardInterrupt:
        raise BertstreamError(
            f"stopped; the same command with --resume goes on from the last checkpoint in {output}"
        ) from None
    if record is None:
        return
    if as_json:
        print_json(record)
        return
    out.print(
        f"{output}: {record['parameters'] / 1e6:.1f} M parameters, {record['asked']['steps']:,} "
        f"steps, {record['tokens']:,} tokens in {record['seconds'] / 60:.1f} min",
        markup=False,
    )
    if (last := record["validation"]) is not None:
        out.print(
            f"held out: {last['masked_accuracy']:.1%} of the masked tokens foreseen (the commonest "
            f"token: {record['commonest']:.1%}), {last['nsp_accuracy']:.1%} of the next sentences "
            "told",
            markup=False,
        )


@contextmanager
def _display() -> Iterator[Display]:
    """A bar with loss, tokens a second and time left; a line for each validation."""
    from models.training.pretrain import Validation
    from models.training.pretraining_run import Display

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    smooth: dict[str, float] = {}

    def report(one: Step | Validation, steps: int) -> None:
        if isinstance(one, Validation):
            err.print(
                f"step {one.step:,} of {steps:,}, held out: loss {one.mlm_loss:.3f}, masked tokens "
                f"{one.masked_accuracy:.1%}, next sentence {one.nsp_accuracy:.1%}",
                markup=False,
            )
            return
        for name, value in (
            ("loss", one.mlm_loss + one.nsp_loss),
            ("tokens", one.tokens),
            ("seconds", one.seconds),
        ):
            smooth[name] = smooth.get(name, value) + SMOOTHING * (value - smooth.get(name, value))
        speed = smooth["tokens"] / smooth["seconds"]
        text = f"loss {smooth['loss']:.3f}  {speed:,.0f} tokens/s"
        bar.update(task, description=text, completed=one.step, total=steps)

    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task: Any = bar.add_task("", total=None)
        yield Display(say=lambda text: bar.update(task, description=text), report=report)
