"""Steps beyond the limit are given up, and what comes of them afterwards is nobody's.

`GivenUp` takes the place of every other error, so that nothing is asserted within a step.
"""

from __future__ import annotations

import threading

import pytest

from models.inference.watch import LOOKS, GivenUp, Step, Watch

LIMIT_S = 60.0


class Clock:
    """A clock that is put forward by hand, and whoever looks meanwhile."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.watch = Watch(LIMIT_S, lambda: self.now)

    def run(self, seconds: float) -> list[Step]:
        """Put the clock forward; somebody looks in every interval."""
        overdue: list[Step] = []
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + self.watch.interval_s)
            overdue += self.watch.overdue()
        return overdue


def test_a_step_within_the_limit_is_left_alone() -> None:
    clock = Clock()
    for _ in range(3):
        with clock.watch.step("waiting", list):
            overdue = clock.run(LIMIT_S - 1)
        assert not overdue
    assert not clock.run(2 * LIMIT_S)


def test_a_step_beyond_the_limit_is_given_up_once() -> None:
    clock = Clock()
    overdue: list[Step] = []

    @clock.watch.step("waiting", list)
    def hang() -> None:
        overdue.extend(clock.run(4 * LIMIT_S))

    with pytest.raises(GivenUp):
        hang()
    (step,) = overdue
    assert (step.what, step.thread) == ("waiting", threading.current_thread())
    assert LIMIT_S <= step.seconds <= LIMIT_S + clock.watch.interval_s


@pytest.mark.parametrize("seconds", [1.0, LIMIT_S + 1])
def test_an_error_counts_only_if_it_comes_in_time(seconds: float) -> None:
    clock = Clock()
    late = seconds > LIMIT_S

    @clock.watch.step("waiting", list)
    def fail() -> None:
        clock.run(seconds)
        raise KeyError("too late?")

    with pytest.raises(GivenUp if late else KeyError):
        fail()


def test_only_the_step_beyond_the_limit_is_given_up() -> None:
    clock = Clock()
    overdue: list[Step] = []

    @clock.watch.step("old", list)
    def hang() -> None:
        clock.run(LIMIT_S - 1)
        with clock.watch.step("young", list):
            overdue.extend(clock.run(LIMIT_S - 1))

    with pytest.raises(GivenUp):
        hang()
    assert [step.what for step in overdue] == ["old"]


def test_a_step_counts_from_its_beginning_not_from_the_look_before() -> None:
    clock = Clock()
    clock.now += clock.watch.interval_s * 0.9
    with clock.watch.step("waiting", list):
        overdue = clock.run(LIMIT_S - clock.watch.interval_s * 0.1)
    assert not overdue


def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    clock = Clock()
    overdue: list[Step] = []

    @clock.watch.step("waiting", list)
    def hang() -> None:
        clock.run(10)
        clock.now += 10 * LIMIT_S
        overdue.extend(clock.run(LIMIT_S))

    with pytest.raises(GivenUp):
        hang()
    (step,) = overdue
    assert step.seconds == pytest.approx(LIMIT_S)


@pytest.mark.parametrize(("limit_s", "interval_s"), [(0.4, 0.4 / LOOKS), (60.0, 1.0)])
def test_a_short_limit_is_looked_at_often(limit_s: float, interval_s: float) -> None:
    assert Watch(limit_s).interval_s == interval_s
