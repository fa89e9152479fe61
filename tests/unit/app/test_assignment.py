"""How partitions go round the workers of a group."""

from __future__ import annotations

from pathlib import Path

import pytest
from faust.assignor.client_assignment import CopartitionedAssignment
from faust.assignor.copartitioned_assignor import CopartitionedAssignor

from app.settings import load_settings
from app.worker import create_app


@pytest.mark.parametrize("partitions", [1, 4, 8, 12])
def test_every_worker_that_joins_gets_its_share(partitions: int, tmp_path: Path) -> None:
    app = create_app(load_settings(data_dir=tmp_path))
    held: dict[str, CopartitionedAssignment] = {}
    for worker in range(partitions):  # as long as there is one for each
        held[f"worker-{worker}"] = CopartitionedAssignment(topics={"requests"})
        held = CopartitionedAssignor(
            {"requests"}, held, partitions, app.conf.table_standby_replicas
        ).get_assignment()
        sizes = [len(one.get_assigned_partitions(active=True)) for one in held.values()]
        assert sum(sizes) == partitions
        assert 1 <= min(sizes) <= max(sizes) <= -(-partitions // len(held)), sizes
