"""What may be committed, whatever order records are answered in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.offsets import OffsetTracker


def test_nothing_is_committable_before_the_first_record_is_answered() -> None:
    tracker = OffsetTracker(generation=1)
    tracker.begin(64)
    tracker.begin(65)
    tracker.finish(65)
    assert tracker.committable is None
    tracker.finish(64)
    assert tracker.committable == 66


def test_gaps_need_no_answer_and_hide_none() -> None:
    tracker = OffsetTracker(generation=1)
    for offset in (10, 40, 41):
        tracker.begin(offset)
    tracker.finish(10)
    tracker.finish(41)
    assert tracker.committable == 11
    tracker.finish(40)
    assert tracker.committable == 42


def test_a_commit_that_failed_is_offered_again() -> None:
    tracker = OffsetTracker(generation=1)
    tracker.begin(0)
    tracker.finish(0)
    assert tracker.committable == 1
    assert tracker.committable == 1
    tracker.committed = 1
    assert tracker.committable is None


def test_a_repeated_hand_over_is_no_new_record() -> None:
    tracker = OffsetTracker(generation=1)
    for offset in (5, 6, 5, 6, 7):
        tracker.begin(offset)
    for offset in (5, 6, 5, 7):
        tracker.finish(offset)
    assert tracker.committable == 8
    assert len(tracker) == 0


def test_what_was_handed_over_twice_is_taken_once_and_what_was_thrown_away_still_counts() -> None:
    tracker = OffsetTracker(generation=1)
    for offset in (3, 5, 6):
        tracker.begin(offset)
    assert tracker.take(3)
    # 5 and 6 are thrown away; all three are handed over again.
    tracker.finish(3)
    for offset in (3, 5, 6):
        tracker.begin(offset)
    assert tracker.committable == 4
    assert [tracker.take(offset) for offset in (3, 5, 6)] == [False, True, True]
    tracker.finish(6)
    assert tracker.committable == 4
    tracker.finish(5)
    assert tracker.committable == 7


@given(
    offsets=st.lists(st.integers(0, 10_000), min_size=1, max_size=60, unique=True).map(sorted),
    data=st.data(),
)
def test_never_commits_past_an_unanswered_record(offsets: list[int], data: st.DataObject) -> None:
    """Random gaps, finishing orders, repeats and interleaving, against a plain model."""
    tracker = OffsetTracker(generation=1)
    waiting = list(offsets)
    begun: list[int] = []
    answered: set[int] = set()
    while len(answered) < len(offsets):
        open_ = [offset for offset in begun if offset not in answered]
        if waiting and (not open_ or data.draw(st.booleans(), label="hand over")):
            offset = waiting.pop(0)
            begun.append(offset)
            tracker.begin(offset)
            tracker.begin(data.draw(st.sampled_from(begun), label="again"))
        else:
            offset = data.draw(st.sampled_from(open_), label="finish")
            answered.add(offset)
            tracker.finish(offset)
            if data.draw(st.booleans(), label="repeat"):
                tracker.finish(offset)
        contiguous = None
        for offset in begun:
            if offset not in answered:
                break
            contiguous = offset + 1
        assert tracker.committable in (
            {contiguous} if tracker.committed is None else {contiguous, None}
        )
        if tracker.committable is not None and data.draw(st.booleans(), label="commit"):
            tracker.committed = tracker.committable
    assert len(tracker) == 0
    assert (tracker.committable or tracker.committed) == offsets[-1] + 1
