"""What may be committed, whatever order records are answered in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.offsets import MAX_AHEAD, Commit, OffsetTracker

CLUSTER = "4L6g3nShT-eMCtK--X86sw"


def test_what_is_answered_out_of_order_is_committed_beside_the_offset() -> None:
    tracker = OffsetTracker(generation=1)
    tracker.begin(64)
    tracker.begin(65)
    assert tracker.committable is None
    tracker.finish(65)
    assert tracker.committable == Commit(64, frozenset({65}))
    tracker.finish(64)
    assert tracker.committable == Commit(66)


def test_gaps_need_no_answer_and_hide_none() -> None:
    tracker = OffsetTracker(generation=1)
    for offset in (10, 40, 41):
        tracker.begin(offset)
    tracker.finish(10)
    tracker.finish(41)
    assert tracker.committable == Commit(11, frozenset({41}))
    tracker.finish(40)
    assert tracker.committable == Commit(42)


def test_a_commit_that_failed_is_offered_again() -> None:
    tracker = OffsetTracker(generation=1)
    tracker.begin(0)
    tracker.finish(0)
    assert tracker.committable == Commit(1)
    assert tracker.committable == Commit(1)
    tracker.committed = Commit(1)
    assert tracker.committable is None


def test_a_repeated_hand_over_is_no_new_record() -> None:
    tracker = OffsetTracker(generation=1)
    for offset in (5, 6, 5, 6, 7):
        tracker.begin(offset)
    for offset in (5, 6, 5, 7):
        tracker.finish(offset)
    assert tracker.committable == Commit(8)
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
    assert tracker.committable == Commit(4)
    assert [tracker.take(offset) for offset in (3, 5, 6)] == [False, True, True]
    tracker.finish(6)
    assert tracker.committable == Commit(4, frozenset({6}))
    tracker.finish(5)
    assert tracker.committable == Commit(7)


def test_what_a_former_owner_has_answered_is_not_taken_again() -> None:
    tracker = OffsetTracker(2, Commit(3, frozenset({5, 6, 9})))
    assert [tracker.begin(offset) for offset in (3, 5, 6, 7)] == [True, False, False, True]
    assert [tracker.take(offset) for offset in (3, 5, 6, 7)] == [True, False, False, True]
    assert tracker.committable == Commit(3, frozenset({5, 6, 9}))
    tracker.finish(3)
    assert tracker.committable == Commit(7, frozenset({9}))
    tracker.finish(7)
    assert tracker.committable == Commit(8, frozenset({9}))
    assert not tracker.begin(9)
    assert tracker.committable == Commit(10)


def test_a_topic_that_begins_again_takes_no_notice_of_the_one_before() -> None:
    tracker = OffsetTracker(2, Commit(100, frozenset({105})))
    for offset in (0, 105):
        assert tracker.begin(offset)
        assert tracker.take(offset)


@given(st.integers(0, 2**40), st.sets(st.integers(1, 2 * MAX_AHEAD), max_size=5_000))
def test_metadata_that_kafka_keeps_tell_what_is_answered(offset: int, behind: set[int]) -> None:
    commit = Commit(offset, frozenset(offset + n for n in behind))
    metadata = commit.metadata(CLUSTER)
    assert len(metadata) <= 4096
    assert metadata.isascii()
    read = Commit.read(offset, metadata, CLUSTER)
    assert read.ahead == {one for one in commit.ahead if one < offset + MAX_AHEAD}
    # Copied to another place, it says nothing.
    assert Commit.read(offset + 1, metadata, CLUSTER) == Commit(offset + 1)
    assert Commit.read(offset, metadata, "another") == Commit(offset)
    assert Commit.read(offset, metadata, "") == Commit(offset)
    assert commit.metadata("") == ""


@given(st.text() | st.text().map(lambda rest: f"answered/1 {CLUSTER} 7 {rest}"))
def test_metadata_of_somebody_else_are_no_answers(metadata: str) -> None:
    read = Commit.read(7, metadata, CLUSTER)
    assert read == Commit(7) or read.metadata(CLUSTER)


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
        upto = begun[0]
        for offset in begun:
            if offset not in answered:
                break
            upto = offset + 1
        commit = Commit(upto, frozenset(offset for offset in answered if offset >= upto))
        expected = commit if answered and commit != tracker.committed else None
        assert tracker.committable == expected
        if tracker.committable is not None and data.draw(st.booleans(), label="commit"):
            tracker.committed = tracker.committable
    assert len(tracker) == 0
    assert (tracker.committable or tracker.committed) == Commit(offsets[-1] + 1)
