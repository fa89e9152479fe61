"""What happens where a worker decodes a request, so that the modules beside this can disturb it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from app.records import Job


def before_each(disturb: Callable[[int], None]) -> None:
    """Have `disturb` called before each request is decoded, with its number from 1 on."""
    of = Job.of.__func__  # type: ignore[attr-defined]
    numbers = count(1)

    def disturbed(cls: type[Job], *arguments: Any) -> Job:
        disturb(next(numbers))
        job: Job = of(cls, *arguments)
        return job

    Job.of = classmethod(disturbed)  # type: ignore[method-assign,assignment]
