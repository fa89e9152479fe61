"""Pretraining: it learns, and a run that was killed ends as one that was not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from models.errors import BertstreamError
from models.training.pretrain import PretrainOptions, Step, Validation
from models.training.run_checkpoints import Position, RunCheckpoints
from tests.unit.models.training.pretraining_run import run

RUN = ("-m", "tests.unit.models.training.pretraining_run")


def in_processes(folder: Path, count: int, kill_at: int = 0) -> subprocess.CompletedProcess[str]:
    """The run in one process, or in two over gloo."""
    launcher = (
        *("-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1"),
        *("--num_processes", str(count), "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", str(20_000 + os.getpid() % 10_000)),
    )
    command = [sys.executable, *(launcher if count > 1 else ()), *RUN, str(folder), str(kill_at)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def digest(done: subprocess.CompletedProcess[str]) -> str:
    """What the processes printed at their end, all of them the same."""
    assert done.returncode == 0, done.stderr
    [printed] = {line for line in done.stdout.splitlines() if len(line) == 64}
    return printed


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_ends_as_one_that_was_not(processes: int, tmp_path: Path) -> None:
    killed = in_processes(tmp_path / "killed", processes, kill_at=5)
    assert killed.returncode != 0
    assert (tmp_path / "killed" / "checkpoints" / "step-00000003").is_dir()
    resumed = in_processes(tmp_path / "killed", processes)
    assert digest(resumed) == digest(in_processes(tmp_path / "whole", processes))


@pytest.mark.parametrize("stopped", range(1, 9))
def test_so_does_one_that_is_stopped_behind_any_step(stopped: int, tmp_path: Path) -> None:
    def stop(step: int) -> None:
        if step == stopped:
            raise KeyboardInterrupt

    undisturbed, _ = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", after_step=stop)
    resumed, reports = run(tmp_path / "stopped")
    assert resumed == undisturbed
    steps = [one.step for one in reports if isinstance(one, Step)]
    assert steps == list(range(stopped // 3 * 3 + 1 if stopped % 3 else stopped - 2, 9))


def losses(reports: list[Step | Validation]) -> list[float]:
    return [one.mlm_loss + one.nsp_loss for one in reports if isinstance(one, Step)]


def test_it_learns(tmp_path: Path) -> None:
    _, reports = run(tmp_path, steps=200)
    before, *_, after = [one for one in reports if isinstance(one, Validation)]
    assert after.step == 200
    assert after.mlm_loss < before.mlm_loss - 1
    assert after.masked_accuracy > before.masked_accuracy
    rates = [one.learning_rate for one in reports if isinstance(one, Step)]
    assert rates.index(max(rates)) == 19
    assert rates[-1] < rates[100] < rates[19] == 5e-3


def test_passes_that_save_memory_change_nothing(tmp_path: Path) -> None:
    _, at_once = run(tmp_path / "one", dropout=0.0)
    _, in_parts = run(tmp_path / "parts", accumulation=3, dropout=0.0)
    assert losses(in_parts) == pytest.approx(losses(at_once), rel=1e-3)


def test_processes_share_the_examples_of_a_step(tmp_path: Path) -> None:
    _, alone = run(tmp_path / "alone")
    seen = [one.tokens for one in alone if isinstance(one, Step)]
    assert all(tokens > 4 * 5 for tokens in seen), "all four examples are counted"


class TestCheckpoints:
    def make(self, folder: Path) -> RunCheckpoints:
        return RunCheckpoints(folder, Accelerator(cpu=True))

    def test_the_last_ones_are_kept(self, tmp_path: Path) -> None:
        checkpoints = self.make(tmp_path)
        assert checkpoints.load() is None
        for step in (1, 2, 30):
            checkpoints.save(Position(step, 0, step))
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "step-00000002",
            "step-00000030",
        ]
        assert checkpoints.load() == Position(30, 0, 30)

    def test_half_of_one_is_none(self, tmp_path: Path) -> None:
        checkpoints = self.make(tmp_path)
        checkpoints.save(Position(1))
        (tmp_path / ".step-00000002.partial").mkdir()
        assert checkpoints.load() == Position(1)

    @pytest.mark.parametrize("file", ["random_states_0.pkl", "position.json"])
    def test_one_that_was_cut_short_is_named(self, file: str, tmp_path: Path) -> None:
        checkpoints = self.make(tmp_path)
        for step in (1, 2):
            checkpoints.save(Position(step))
        cut = tmp_path / "step-00000002" / file
        cut.write_bytes(cut.read_bytes()[:-1])
        with pytest.raises(BertstreamError, match="step-00000002 cannot be read") as caught:
            checkpoints.load()
        assert "goes on from step-00000001" in str(caught.value)
        shutil.rmtree(tmp_path / "step-00000002")
        assert checkpoints.load() == Position(1)

    def test_a_disk_that_refuses_leaves_the_last_one_whole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checkpoints = self.make(tmp_path)
        checkpoints.save(Position(1))

        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Accelerator, "save_state", full)
        with pytest.raises(BertstreamError, match="No space left on device") as caught:
            checkpoints.save(Position(2))
        assert "step-00000001 is whole" in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 1 or more"),
        ({"steps": 1, "warm_up": 2.0}, "warm_up is a share"),
        ({"steps": 1, "learning_rate": 0.0}, "above 0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainOptions(**options)


def test_a_step_has_an_example_for_each_pass(tmp_path: Path) -> None:
    with pytest.raises(BertstreamError, match="a batch of 4 is less than its 5 passes"):
        run(tmp_path, accumulation=5)
