"""A closed model leaves nothing behind."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.inference.registry import ModelRegistry
from models.inference.tasks import Document

LOADS = 100
SETTLED = 20
"""Loads after which caches of the libraries are full."""
MEBIBYTE = 1024 * 1024


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.fixture
def quick_collections() -> Iterator[None]:
    """Spare the collector the objects of the libraries, which a hundred loads leave alone."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("quick_collections")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat_over_a_hundred_loads(save: Callable[..., Path]) -> None:
    # Weights of 20 MB: keeping a single load would show.
    folder = save(num_labels=2, hidden_size=512, intermediate_size=1024, num_attention_heads=8)
    size = (folder / "model.safetensors").stat().st_size
    assert size > 15 * MEBIBYTE

    resident = []
    for _ in range(LOADS):
        registry = ModelRegistry.load({"m": str(folder)}, device="cpu", dtype="float32")
        registry.engine().predict([Document("The old bridge")])
        registry.close()
        resident.append(resident_bytes())

    assert max(resident[SETTLED:]) - resident[SETTLED] < size / 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_close_gives_the_memory_back_while_the_registry_lives(save: Callable[..., Path]) -> None:
    folder = save(num_labels=2, hidden_size=1024, intermediate_size=4096, num_attention_heads=8)
    size = (folder / "model.safetensors").stat().st_size
    registry = ModelRegistry.load({"m": str(folder)}, device="cpu", dtype="float32")
    registry.engine().predict([Document("The old bridge")])
    before = resident_bytes()
    registry.close()
    assert before - resident_bytes() > 0.8 * size
