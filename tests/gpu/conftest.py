"""What the tests on a GPU share; without one they are skipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import save_checkpoint


@pytest.fixture(autouse=True)
def _gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no NVIDIA GPU")


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Make a checkpoint folder: `save("bert", num_labels=3)`."""

    def save(name: str = "bert", **options: Any) -> Path:
        return save_checkpoint(tmp_path / "checkpoint", name, **options)

    return save
