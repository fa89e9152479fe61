"""What may happen now and then, and not again and again."""

from __future__ import annotations

from app.recurrence import Recurrence


def test_more_than_the_most_within_the_time_is_too_often() -> None:
    times = iter([0.0, 1.0, 2.0, 61.5, 62.0, 62.5, 63.0])
    recurrence = Recurrence(3, 60.0, clock=times.__next__)
    happened = [recurrence.happened() for _ in range(7)]
    assert happened == [False, False, False, False, False, False, True]
