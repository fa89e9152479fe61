"""Where a run of training stands, on the disk: whole, or not at all."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError

from models.errors import BertstreamError, one_line

KEPT = 2
"""Checkpoints that are kept, the last ones."""
NAME = re.compile(r"step-(\d{8})")
POSITION = "position.json"


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run has come."""

    step: int = 0
    """Steps done."""
    epoch: int = 0
    used: int = 0
    """Examples of that epoch that were learned from."""


class RunCheckpoints:
    """The checkpoints of a run: weights, optimizer, schedule, random state, and its position.

    Args:
        folder: holds a folder for each; made with the first one.
        accelerator: has prepared, or been told of, all that has a state.
    """

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self._folder = folder
        self._accelerator = accelerator

    def save(self, position: Position) -> None:
        """Write a checkpoint, and remove old ones; called in all processes at once.

        Raises:
            BertstreamError: the disk refuses; what was written before is whole.
        """
        name = f"step-{position.step:08}"
        partial, whole = self._folder / f".{name}.partial", self._folder / name
        main = self._accelerator.is_main_process
        try:
            if main:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            self._accelerator.wait_for_everyone()
            self._accelerator.save_state(str(partial))
            self._accelerator.wait_for_everyone()
            if main:
                sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
                content = {"position": asdict(position), "bytes": sizes}
                (partial / POSITION).write_text(json.dumps(content), encoding="utf-8")
                partial.rename(whole)
                for _, old in self._all()[:-KEPT]:
                    shutil.rmtree(old)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise BertstreamError(
                f"{whole} cannot be written: {one_line(error)}; {self._last_good()}"
            ) from error

    def load(self) -> Position | None:
        """Go back to the last checkpoint; None where there is none.

        Raises:
            BertstreamError: it cannot be read.
        """
        checkpoints = self._all()
        if not checkpoints:
            return None
        _, last = checkpoints[-1]
        try:
            content: dict[str, Any] = json.loads((last / POSITION).read_text(encoding="utf-8"))
            # accelerate goes on without a random state that it cannot read.
            for name, size in content["bytes"].items():
                if (last / name).stat().st_size != size:
                    raise ValueError(f"{name} is not as long as it was")
            self._accelerator.load_state(str(last))
            return Position(**content["position"])
        except Exception as error:  # torch, safetensors and pickle each have their own
            earlier = (
                f", and the run goes on from {checkpoints[-2][1].name}" if checkpoints[1:] else ""
            )
            raise BertstreamError(
                f"{last} cannot be read: {one_line(error)}; remove it{earlier}"
            ) from error

    @property
    def last_step(self) -> int:
        """Steps that the last one has done; 0 where there is none."""
        checkpoints = self._all()
        return checkpoints[-1][0] if checkpoints else 0

    def _all(self) -> list[tuple[int, Path]]:
        """Whole checkpoints by step, the oldest first."""
        if not self._folder.is_dir():
            return []
        found = ((NAME.fullmatch(path.name), path) for path in self._folder.iterdir())
        return sorted((int(match[1]), path) for match, path in found if match)

    def _last_good(self) -> str:
        checkpoints = self._all()
        return f"{checkpoints[-1][1]} is whole" if checkpoints else "there is none before it"
