"""`bertstream export`: a model as a folder for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.answers import offline_settings
from app.cli.console import out, print_json, progress
from app.cli.options import AsJson
from app.errors import BertstreamError


def export(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the export; a new one.")],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Checkpoint folder or hub id, instead of the settings' default."
        ),
    ] = None,
    opset: Annotated[int, typer.Option(min=18, max=23, help="Version of ONNX's operators.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Export a model to ONNX for other runtimes, and check it there against torch."""
    try:
        from models.export.onnx import export_onnx
    except ImportError as error:
        package = str(error.name).partition(".")[0]
        raise BertstreamError(
            f"{package} is not installed: pip install 'bertstream[onnx]'"
        ) from None
    from models.inference.transformer import Trust

    settings = offline_settings(model, None)
    [spec] = settings.models.values()
    with progress() as display:
        task = display.add_task("loading")
        record = export_onnx(
            spec,
            output,
            opset=opset,
            aggregation=settings.aggregation,
            segment_overlap=settings.segment_overlap,
            trust=Trust(remote_code=settings.trust_remote_code, pickle=settings.allow_pickle),
            progress=lambda message: display.update(task, description=message),
        )
    if as_json:
        print_json(record)
    else:
        out.print(f"{output}: {_summary(record)}", markup=False)


def _summary(record: dict[str, Any]) -> str:
    check = record["check"]
    size = sum(record["files"].values()) / 1e6
    return (
        f"{record['task']}, {size:,.1f} MB, opset {record['opset']}; {check['inputs']} inputs of "
        f"up to {check['longest']:,} tokens differ from torch by {check['difference']:.1e} at most"
    )
