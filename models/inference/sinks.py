"""Who waits for outcomes: one caller for one document, or a stream of batches for many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from models.inference.tasks import Prediction
from models.inference.ticket import Outcome, Place

T = TypeVar("T")


class Single:
    """Waits for one outcome."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()

    def resolve(self, place: Place, outcome: Outcome) -> None:
        """Wake the caller."""
        if isinstance(outcome, Exception):
            self.fail(outcome)
        elif not self.future.done():
            self.future.set_result(outcome)

    def fail(self, error: Exception) -> None:
        """Wake the caller with an error."""
        if not self.future.done():
            self.future.set_exception(error)

    def drop(self, unwanted: Callable[[Any], bool]) -> list[Place]:
        """Nothing: the caller waits."""
        return []


class Many(Generic[T]):
    """Gathers outcomes until they are taken."""

    def __init__(self) -> None:
        self.inside: set[Place] = set()
        """Places whose outcome has not been taken."""
        self.error: Exception | None = None
        self.changed = asyncio.Event()
        """Set when there is an outcome or an error."""
        self._answers: list[tuple[Place, Outcome]] = []

    def resolve(self, place: Place, outcome: Outcome) -> None:
        """Keep an outcome until it is taken."""
        if place in self.inside:
            self._answers.append((place, outcome))
            self.changed.set()

    def fail(self, error: Exception) -> None:
        """Keep an error that ends the stream."""
        self.error = error
        self.changed.set()

    def drop(self, unwanted: Callable[[Any], bool]) -> list[Place]:
        """Wait no more for items that are not wanted; returns their places."""
        places = [place for place in self.inside if unwanted(place.item)]
        self.inside.difference_update(places)
        self._answers = [answer for answer in self._answers if answer[0] in self.inside]
        self.changed.set()
        return places

    def take(self) -> list[tuple[Place, Outcome]]:
        """The outcomes since the last call."""
        answers, self._answers = self._answers, []
        self.inside.difference_update(place for place, _ in answers)
        return answers
