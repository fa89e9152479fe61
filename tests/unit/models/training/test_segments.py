"""Documents as segments."""

from __future__ import annotations

import torch

from models.inference.tasks import Segment
from models.training.segments import Parts, SegmentedCorpus, forward_all


def test_segments_are_averaged_by_share() -> None:
    parts = Parts(torch.tensor([0, 0, 1]), torch.tensor([0.75, 0.25, 1]))
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([0.75 * logits[0] + 0.25 * logits[1], logits[2]])
    torch.testing.assert_close(parts.average(logits), expected)
    log_probs = parts.average(logits.log_softmax(-1)).log_softmax(-1)
    torch.testing.assert_close(parts.average(logits).log_softmax(-1), log_probs)


def test_documents_are_their_segments_in_order() -> None:
    segments = tuple(Segment([number], None, 1) for number in range(4))
    corpus = SegmentedCorpus(segments, Parts(torch.tensor([0, 1, 1, 2]), torch.ones(4)))
    assert corpus.documents() == [segments[:1], segments[1:3], segments[3:]]


def test_selected_documents_are_numbered_anew() -> None:
    segments = tuple(Segment([number], None, 1) for number in range(5))
    parts = Parts(torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0.75, 0.25, 1.0, 0.5, 0.5]))
    kept = SegmentedCorpus(segments, parts).select(torch.tensor([0, 2]))
    assert kept.segments == (segments[0], segments[1], segments[3], segments[4])
    assert kept.parts.owners.tolist() == [0, 0, 1, 1]
    assert kept.parts.shares.tolist() == [0.75, 0.25, 0.5, 0.5]
    assert len(kept.parts) == 2
    assert len(SegmentedCorpus(segments, parts).select(torch.tensor([], dtype=int)).parts) == 0


def test_rows_come_in_the_order_of_their_segments() -> None:
    segments = [Segment([number] * (1 + number * 7 % 50), None, 1) for number in range(300)]
    done: list[int] = []

    def forward(batch: list[Segment]) -> torch.Tensor:
        return torch.tensor([[float(segment.token_ids[0])] for segment in batch])

    rows = forward_all(forward, segments, done.append)
    assert rows.squeeze(1).tolist() == list(range(300))
    assert sum(done) == 300
    assert len(done) > 1
