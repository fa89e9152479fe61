"""Where long work tells how far it has come."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Steps:
    """Of one stage."""

    advance: Callable[[int], None] = lambda _: None
    """Takes the steps as they are done."""
    say: Callable[[str], None] = lambda _: None
    """Takes what is being done."""


Stage = Callable[[str, int | None], AbstractContextManager[Steps]]
"""Takes what begins, and its steps where they are known."""


def silent(_name: str, _total: int | None) -> AbstractContextManager[Steps]:
    """Tell nothing."""
    return nullcontext(Steps())
