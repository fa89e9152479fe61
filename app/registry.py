"""The configured models."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from app.settings import Settings

if TYPE_CHECKING:
    from models.inference.registry import ModelRegistry


def load_registry(settings: Settings, progress: Callable[[str], None]) -> ModelRegistry:
    """Load the models that the settings name.

    Arguments:
        progress: Takes a line at each step.

    Raises:
        ModelLoadError: a model cannot be served.
    """
    # Here, and not above: torch takes its seconds.
    from models.inference.registry import ModelRegistry

    return ModelRegistry.load(
        settings.models,
        device=settings.device,
        dtype=settings.dtype,
        engine=settings.engine,
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
        aggregation=settings.aggregation,
        segment_overlap=settings.segment_overlap,
        progress=progress,
    )
