"""Small checkpoints in a folder of the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import save_checkpoint

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Make a checkpoint folder: `save("bert", num_labels=3)`; without labels a plain encoder."""

    def save(name: str = "bert", *, folder: str = "checkpoint", **options: Any) -> Path:
        return save_checkpoint(tmp_path / folder, name, **options)

    return save
