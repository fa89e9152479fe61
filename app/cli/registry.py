"""The configured models, loaded for a command that predicts without Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from app.cli.console import progress
from app.registry import load_registry
from app.settings import Settings

if TYPE_CHECKING:
    from models.inference.registry import ModelRegistry


@contextmanager
def loaded_registry(settings: Settings) -> Iterator[ModelRegistry]:
    """Load the models as a worker with these settings would, and let go of them afterwards.

    Raises:
        ModelLoadError: a model cannot be served.
    """
    with progress() as display:
        task = display.add_task("loading")
        registry = load_registry(
            settings, lambda message: display.update(task, description=message)
        )
    try:
        yield registry
    finally:
        registry.close()
